"""What the built-in model takes: its size, the seconds to load it and those of an image, in fresh processes.

`pytest -m slow -s -n0 tests/slow/test_built_in.py` prints them. Seconds are of the processor, on one thread, so that
other work on the machine counts little.
"""

import subprocess
import sys

import pytest

from mace_studio.paths import BUILT_IN

LARGEST = 40e6  # bytes
LONGEST = {"load": 3.0, "image": 4.0}  # seconds; an image takes half of it on two cores
RUN = """
import time
import torch
from mace_studio.recipe import ImageRequest
from mace_studio.sd import sampling
from mace_studio.sd.model import load
torch.set_num_threads(1)
began = time.process_time()
model = load(dtype="float32")
print("load", time.process_time() - began)
request = ImageRequest(("a photo of the cat",), (0,), steps=20, guidance=4.0)
sampling.generate(model, request)  # the first warms up
began = time.process_time()
sampling.generate(model, request)
print("image", time.process_time() - began)
"""


@pytest.mark.slow
def test_size_and_seconds():
    size = sum(path.stat().st_size for path in BUILT_IN.rglob("*") if path.is_file())
    said = subprocess.run([sys.executable, "-c", RUN], capture_output=True, text=True, check=True).stdout
    taken = {name: float(seconds) for name, seconds in (line.split() for line in said.splitlines())}
    print(f"\n{size / 1e6:.1f} MB, {taken['load']:.2f} s to load, {taken['image']:.2f} s an image of 20 steps")
    assert size < LARGEST
    assert all(taken[name] < longest for name, longest in LONGEST.items())
