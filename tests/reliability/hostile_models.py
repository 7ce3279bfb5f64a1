"""Model folders of strangers, each a good one with something wrong in it: loaded, or refused in a sentence, quickly.

python -m tests.reliability.hostile_models --count 70
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from mace_studio.errors import StudioError
from mace_studio.paths import BUILT_IN
from mace_studio.recipe import ImageRequest
from mace_studio.sd import model as sd_model
from mace_studio.sd import sampling
from tests.reliability.common import Figures, run, sentence
from tests.reliability.hostile_erasures import other_tensors, parts, whole
from tests.reliability.mutations import scrambled

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**8, 1e300, "", "x", "unknown", [], {}, [None, None], ["diffusers", "NoSuchClass"],
    ["os", "system"], ["builtins", "eval"], "v_prediction", "../../etc/passwd", "9" * 400,
)  # fmt: skip


def changed(data: Any, dice: random.Random) -> Any:
    """JSON with one value, not too deep in it, of another kind."""
    if isinstance(data, dict) and data:
        key = dice.choice([name for name in data if not name.startswith("_")] or list(data))
        if dice.random() < 0.15:
            return {name: one for name, one in data.items() if name != key}
        deeper = isinstance(data[key], dict) and dice.random() < 0.7
        return data | {key: changed(data[key], dice) if deeper else dice.choice(VALUES)}
    return dice.choice(VALUES)


def spoil(folder: Path, dice: random.Random) -> str:
    """Do something to a model's folder; what, in words."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    path = dice.choice([one for one in files if one.suffix in (".json", ".safetensors", ".txt")])
    name, data, how = path.relative_to(folder).as_posix(), path.read_bytes(), dice.random()
    if how < 0.12:
        path.unlink()
        return f"{name} missing"
    if how < 0.2:
        path.write_bytes(data[: dice.randrange(len(data))])
        return f"{name} cut"
    if path.suffix == ".safetensors":
        header, tensors = parts(data)
        path.write_bytes(whole(other_tensors(header, dice), tensors))
        return f"{name} with other tensors"
    if path.suffix == ".json" and how < 0.85:
        path.write_text(json.dumps(changed(json.loads(data), dice)), encoding="utf-8")
        return f"{name} with another value"
    path.write_bytes(scrambled(data, dice))
    return f"{name} scrambled"


def work(count: int, seed: int) -> Figures:
    dice, came, foreign, slowest = random.Random(seed), Counter[str](), list[str](), 0.0
    request = ImageRequest(("a cat",), steps=1, guidance=4.0)
    for _ in range(count):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "model"
            shutil.copytree(BUILT_IN, folder)
            spoiled, begun = spoil(folder, dice), time.monotonic()
            try:
                model = sd_model.load(str(folder), "cpu", "float32")
                sampling.generate(model, request)
                came["loaded"] += 1
            except StudioError:
                came["refused"] += 1
            except Exception as error:
                foreign.append(f"{spoiled}: {sentence(error)}")
            slowest = max(slowest, time.monotonic() - begun)
    figures = {"folders": count, **came, "slowest, s": round(slowest, 1)}
    return {**figures, "tracebacks": len(foreign), "the first": foreign[:8]}


if __name__ == "__main__":
    sys.exit(run(__doc__, 70, work, ("tracebacks",)))
