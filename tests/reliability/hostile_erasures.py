"""Erasure files of strangers: each is refused in a sentence, or is an erasure; the list and the model stay as they are.

python -m tests.reliability.hostile_erasures --count 250
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from mace_studio import erasure as erasures
from mace_studio.erasure_header import HEADER
from mace_studio.errors import StudioError
from mace_studio.methods.mace.erase import erase
from mace_studio.paths import BUILT_IN
from mace_studio.runtime import library
from mace_studio.runtime.estimate import Status
from mace_studio.sd import model as sd_model
from mace_studio.ui.components import model_list
from tests.reliability.common import Figures, run, sentence, small
from tests.reliability.mutations import mutated, scrambled

DTYPES = ("F64", "F32", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "X", 3, None)
KEYS = ("conv_in.weight", "x", "lora.0.x", "lora.99999999.a.up", "../../a", "", "down_blocks.0.attn2.to_k.weight")


def parts(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and tensors of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def whole(header: dict[str, Any], tensors: bytes) -> bytes:
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + tensors


def other_tensors(header: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    key = dice.choice([name for name in header if name != "__metadata__"])
    how = dice.randrange(6)
    if how == 0:
        return {name: one for name, one in header.items() if name != key}
    if how == 1:
        return {(dice.choice(KEYS) if name == key else name): one for name, one in header.items()}
    if how == 2:
        return header | {key: header[key] | {"dtype": dice.choice(DTYPES)}}
    if how == 3:
        shape = header[key]["shape"]
        shapes = (shape[::-1], [*shape, 1], [shape[0] * shape[-1]], [], [0, 4], [-1, 4], [2**62, 4], "x", [1.5])
        return header | {key: header[key] | {"shape": dice.choice(shapes)}}
    if how == 4:
        return header | {key: header[key] | {"data_offsets": dice.choice(([0, 4], [8, 0], [0, 2**63], [-1, 1], None))}}
    return header | {dice.choice(KEYS): {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}


def other_about(header: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    about = json.loads(header["__metadata__"][HEADER])
    for _ in range(dice.randrange(1, 4)):
        about = mutated(about, dice) if isinstance(about, dict) else about
    deep = "[" * 5000 if dice.random() < 0.05 else None
    return header | {"__metadata__": {HEADER: deep or json.dumps(about)}}


def not_finite(tensors: bytes, dice: random.Random) -> bytes:
    at = 4 * dice.randrange(len(tensors) // 4)
    return tensors[:at] + struct.pack("<f", dice.choice((float("nan"), float("inf")))) + tensors[at + 4 :]


def hostile(good: bytes, dice: random.Random) -> bytes:
    header, tensors = parts(good)
    how = dice.random()
    if how < 0.35:
        return whole(other_tensors(header, dice), tensors)
    if how < 0.75:
        return whole(other_about(header, dice), tensors)
    if how < 0.85:
        return whole(header, not_finite(tensors, dice))
    if how < 0.9:
        return good[: dice.randrange(len(good))]
    return scrambled(good[:4000], dice) + good[4000:]


def work(count: int, seed: int) -> Figures:
    dice, model = random.Random(seed), sd_model.load(str(BUILT_IN), "cpu", "float32")
    before, came, foreign, status = model.checksum(), Counter[str](), list[str](), Status(name="m", state="ready")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        erase(model, small("cat", "dog")).save(folder / "good.safetensors")
        good = (folder / "good.safetensors").read_bytes()
        os.mkfifo(folder / "pipe.safetensors")
        (folder / "folder.safetensors").mkdir()
        for i in range(count):
            path = folder / f"hostile-{i}.safetensors"
            path.write_bytes(hostile(good, dice))
            try:
                with erasures.load(path).applied(model):
                    came["taken"] += 1
            except StudioError:
                came["refused"] += 1
            except Exception as error:
                foreign.append(sentence(error))
            if model.checksum() != before:
                came["changed the model"] += 1
        try:
            listed = library.entries(folder)
            shown = model_list.rows(listed, status)
            for entry in listed:
                model_list.details(entry, status)
            came["listed beside the good one"] = len(shown) - 1
            came["lost from the list"] = int("good" not in {row["name"] for row in shown})
        except Exception as error:
            foreign.append(f"the list: {sentence(error)}")
    return {"files": count, **came, "tracebacks": len(foreign), "the first": foreign[:5]}


if __name__ == "__main__":
    sys.exit(run(__doc__, 250, work, ("tracebacks",)))
