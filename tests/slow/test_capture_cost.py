"""What reading the attention costs: `pytest -m slow -s tests/slow/test_capture_cost.py` prints it."""

import time

import pytest

from mace_studio.recipe import ImageRequest
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import attention_hooks, attention_maps, sampling, text
from mace_studio.sd import model as sd_model

DRAWING = ImageRequest(("a photo of the cat in the forest",), (0,), guidance=4.0)
ROUNDS = 12


@pytest.mark.slow
def test_reading_the_attention_adds_less_than_a_quarter():
    model = sd_model.load(str(BUILT_IN), "cpu", "float32")
    words = text.words(model, ""), text.words(model, DRAWING.prompts[0], ["cat"])

    def plain():
        sampling.generate(model, DRAWING)

    def read():
        recorder = attention_maps.Recorder(words, range(DRAWING.steps), attention_maps.latent_size(model, None))
        with attention_hooks.attention(model.unet, recorder.receive):
            sampling.generate(model, DRAWING)

    # In turns, and the quickest of each: other work on the machine only ever adds.
    seconds = {plain: [], read: []}
    for _ in range(ROUNDS):
        for run, times in seconds.items():
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
    ratio = min(seconds[read]) / min(seconds[plain])
    print(
        f"\none image of {DRAWING.steps} steps: {min(seconds[plain]):.3f} s, with its attention {ratio:.3f} times that"
    )
    assert ratio < 1.25
