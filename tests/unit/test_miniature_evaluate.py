"""The table of how well the built-in model generates."""

import pytest
from PIL import Image, ImageChops

from mace_studio.miniature import autoencoder, diffusion, evaluate
from mace_studio.miniature.evaluate import Group, Row, wilson
from mace_studio.miniature.judge import HEADS


def test_wilson_by_hand():
    # 8 of 10: z^2/n = .38415, middle (.8 + .19207) / 1.38415 = .71674,
    # half 1.95996 / 1.38415 * sqrt(.016 + .0096036) = .22658.
    assert wilson(8, 10) == pytest.approx((0.49016, 0.94332), abs=2e-5)
    # None of 10: from 0 to (z^2/n) / (1 + z^2/n).
    assert wilson(0, 10) == pytest.approx((0, 0.38415 / 1.38415), abs=1e-5)
    assert wilson(10, 10) == pytest.approx((1 / 1.38415, 1), abs=1e-5)


@pytest.mark.parametrize(("correct", "count"), [(0, 0), (3, 2), (-1, 5)])
def test_what_is_no_share_is_refused(correct, count):
    with pytest.raises(ValueError, match=f"{correct} correct of {count}"):
        wilson(correct, count)


class Echo:
    """A judge that reads its answers off the images' colour."""

    def names(self, images, head):
        return [("cat", "dog")[image.getpixel((0, 0))[0] // 128] for image in images]


def test_rows_count_the_judge_s_answers(monkeypatch):
    asked = []

    def generate(whole, prompts, seed, steps):
        asked.extend((prompt, seed + i, steps) for i, prompt in enumerate(prompts))
        return [Image.new("RGB", (64, 64), (0 if "kitty" in prompt else 200, 0, 0)) for prompt in prompts]

    monkeypatch.setattr(diffusion, "generate", generate)
    group = Group("few", ("a {}", "the {}"), "thing", {"kitty": "cat", "hound": "dog", "frog": "frog"})
    (row,) = evaluate.generated(None, Echo(), images=2, seed=5, asked=[group], steps=9)
    assert row == Row("few", 4, 6)
    words = ["kitty"] * 2 + ["hound"] * 2 + ["frog"] * 2
    assert asked == [(f"{('a', 'the')[i % 2]} {word}", 5 + i, 9) for i, word in enumerate(words)]


def test_composed_rows_count_single_things_and_scenes():
    class Blind:
        answers = HEADS

        def names(self, images, head):
            return ["none of these"] * len(images)

    rows = list(evaluate.composed(Blind(), 200))
    assert [row.group for row in rows] == ["composed: thing", "composed: artist", "composed: scene"]
    assert 180 <= rows[0].count == rows[1].count == rows[2].count <= 200
    assert rows[1].correct / rows[1].count == pytest.approx(0.75, abs=0.13)  # all but the artists' share of .25


def test_composed_images_can_be_shown_through_an_autoencoder(monkeypatch):
    seen = []

    class Looking:
        answers = HEADS

        def names(self, images, head):
            seen.extend(images)
            return ["none of these"] * len(images)

    monkeypatch.setattr(autoencoder, "reconstructed", lambda vae, pixels_NCHW: -pixels_NCHW)
    plain, turned = (list(evaluate.composed(Looking(), 5, vae)) for vae in (None, "inverts"))
    assert [row.group for row in turned] == [row.group.replace(":", ", through the autoencoder:") for row in plain]
    half = len(seen) // 2
    for before, after in zip(seen[:half], seen[half:], strict=True):
        assert ImageChops.difference(ImageChops.invert(before), after).getextrema() == ((0, 0),) * 3


def test_the_table_says_all_numbers():
    assert evaluate.table([Row("objects", 8, 10)]).splitlines() == [
        "| group | top-1 | 95 % interval | correct | images |",
        "| --- | --- | --- | --- | --- |",
        "| objects | 80.0% | 49.0% to 94.3% | 8 | 10 |",
    ]
