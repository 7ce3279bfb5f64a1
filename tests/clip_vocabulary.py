"""The tokenizer of Stable Diffusion 1.x, made of the vocabulary that the package open-clip-torch (MIT) ships."""

import gzip
import json
from importlib.util import find_spec
from pathlib import Path

from transformers import CLIPTokenizer

MERGES = 49152 - 256 - 2  # what CLIP reads of the file, after its first line


def alphabet():
    """The letter that stands for each byte, in the order of CLIP's vocabulary: printable ones stand for themselves."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + i) for i, _ in enumerate(others)]


def save(folder):
    """Write the tokenizer as it lies in the folder of a model, and return it."""
    packed = Path(find_spec("open_clip").origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode("utf-8").splitlines()
    merges = lines[1 : MERGES + 1]
    words = [*alphabet(), *(f"{letter}</w>" for letter in alphabet()), *("".join(merge.split()) for merge in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=77)
