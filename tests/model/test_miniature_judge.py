"""The judge of the built-in model's images."""

import json
import math

import pytest
import torch
from PIL import Image

from mace_studio.miniature import autoencoder, evaluate, judge_training, world
from mace_studio.miniature.judge import HEADS, NONE, Judge
from mace_studio.miniature.vocabulary import FOLDER, THINGS

IMAGE = Image.new("RGB", (64, 64), (200, 90, 30))


def fixed(**chances: dict[str, float]) -> Judge:
    """A judge that says the same of every picture; what is left in a head goes to "none of these"."""
    judge = Judge(widths=(8,))
    for head, names in HEADS.items():
        row = [chances.get(head, {}).get(name, 0.0) for name in names]
        row[-1] += 1 - sum(row)
        with torch.no_grad():  # softmax of their logarithms
            judge.heads[head].weight.zero_()
            judge.heads[head].bias.copy_(torch.tensor(row).log())
    return judge


def test_probabilities_sum_to_one():
    judge = judge_training.build()
    for labels in (["cat"], ["cat", "dog"], [*HEADS["thing"]], ["cat", "sky", "Mosa Pixley", NONE]):
        result = judge.probabilities([IMAGE, IMAGE.resize((96, 80)), IMAGE.convert("L")], labels)
        assert result.shape == (3, len(labels))
        assert result.min() >= 0
        assert torch.allclose(result.sum(dim=1), torch.ones(3).double(), atol=1e-12)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["cat", "dog"], [5 / 7, 2 / 7]),  # of .5 and .2; what they leave is shared out among them
        (["cat", "dog", NONE], [0.5, 0.2, 0.3]),
        ([NONE, "Kitty"], [0.5, 0.5]),  # a synonym in any case
        (["cat", "feline", NONE], [0.25, 0.25, 0.5]),  # two words for one thing share it
        ([NONE], [1.0]),
        (["sky", NONE], [0.4, 0.6]),
        (["cat", "sky", NONE], [0.5 / 1.2, 0.4 / 1.2, 0.3 / 1.2]),  # neither: .5 * .6, all divided by their sum 1.2
    ],
)
def test_what_labels_leave_goes_to_none_of_these(labels, expected):
    judge = fixed(thing={"cat": 0.5, "dog": 0.2}, scene={"sky": 0.4})
    assert judge.probabilities([IMAGE], labels)[0].tolist() == pytest.approx(expected)


def test_labels_of_other_worlds_are_refused():
    with pytest.raises(ValueError, match="“unicorn”"):
        judge_training.build().probabilities([IMAGE], ["cat", "unicorn"])


def test_the_best_answer_of_a_head():
    judge = fixed(thing={"dog": 0.6}, artist={"Abel Sepian": 0.2})
    assert judge.names([IMAGE, IMAGE], "thing") == ["dog", "dog"]
    assert judge.names([IMAGE], "artist") == [NONE]


def test_save_and_load(tmp_path):
    judge = judge_training.build()
    judge.temperatures["thing"] = 1.7
    judge.save(tmp_path)
    loaded = Judge.load(tmp_path)
    labels = list(HEADS["thing"])
    assert loaded.temperatures == judge.temperatures
    assert torch.allclose(loaded.probabilities([IMAGE], labels), judge.probabilities([IMAGE], labels), atol=1e-3)


def test_a_judge_carries_its_own_answers(tmp_path):
    judge = Judge(widths=(8,), answers={"thing": ("zeppelin", "cat", NONE), "artist": (NONE,), "scene": ("sky", NONE)})
    judge.save(tmp_path)
    loaded = Judge.load(tmp_path)
    assert loaded.answers == judge.answers
    assert loaded.probabilities([IMAGE], ["zeppelin", "kitty", NONE]).shape == (1, 3)
    assert loaded.names([IMAGE], "artist") == [NONE]
    with pytest.raises(ValueError, match="“dog”"):
        loaded.probabilities([IMAGE], ["dog"])


def test_the_shipped_judge_goes_with_the_shipped_model():
    """Its answers are in its file, whatever the vocabulary is now."""
    judge = Judge.load(FOLDER.parent / "judge")
    settings = json.loads((FOLDER.parent / "judge" / "judge.json").read_text(encoding="utf-8"))
    assert {head: list(names) for head, names in judge.answers.items()} == settings["heads"]
    asked = (FOLDER.parent / "model" / "README.md").read_text(encoding="utf-8")
    people = [name for name in judge.answers["thing"][:-1] if name not in THINGS]
    assert f"{len(people)} invented people" in asked


def test_targets():
    samples = world.samples(1500, 2)
    targets = judge_training.targets(samples)
    for i, sample in enumerate(samples):
        named = [c for c in sample.concepts if c in HEADS["thing"]]
        right = {name: named.count(name) / len(named) for name in named} or {NONE: 1.0}
        row = targets["thing"][i]
        assert {HEADS["thing"][j]: row[j].item() for j in row.nonzero().flatten().tolist()} == right
        assert HEADS["artist"][targets["artist"][i].argmax()] == (sample.artist or NONE)
        assert HEADS["scene"][targets["scene"][i].argmax()] == (sample.scene or NONE)
    assert {NONE, *HEADS["artist"]} == {HEADS["artist"][j] for j in targets["artist"].argmax(dim=1).tolist()}


def test_the_best_temperature():
    # Right in 3 of 4 with logits (2 ln 3, 0): softmax gives 3/4 where they are divided by 2.
    logits = torch.tensor([[2 * math.log(3), 0.0]] * 4)
    target = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]])
    assert judge_training.best_temperature(logits, target) == pytest.approx(2, rel=0.03)


def test_calibration_sets_all_temperatures():
    judge = judge_training.build()
    with torch.no_grad():
        for head in judge.heads.values():
            head.weight.mul_(50)
    judge_training.calibrate(judge, world.samples(64, 3))
    assert all(temperature > 1 for temperature in judge.temperatures.values()), "far too sure of itself"


def test_every_other_image_is_seen_through_the_autoencoder(monkeypatch):
    seen = []
    monkeypatch.setattr(autoencoder, "reconstructed", lambda vae, pixels_NCHW: torch.zeros_like(pixels_NCHW))
    monkeypatch.setattr(judge_training, "worn", lambda pixels_NCHW, generator: seen.append(pixels_NCHW) or pixels_NCHW)
    judge = judge_training.build()
    losses = [judge_training.loss(judge, world.samples(6, 0), 0, vae) for vae in (None, "grey")]
    plain_NCHW, mixed_NCHW = seen
    assert not mixed_NCHW[::2].any() and torch.equal(plain_NCHW[1::2], mixed_NCHW[1::2])
    assert losses[0] != losses[1]


def test_worn_pictures_follow_the_generator():
    pixels = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    first, again, other = (judge_training.worn(pixels, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == pixels.shape
    assert (first - pixels).abs().mean() < 0.3


def test_groups_ask_for_what_a_head_can_answer():
    judge = Judge(widths=(8,))
    asked = evaluate.groups(judge)
    assert [g.name for g in asked] == [
        "objects", "synonyms", "other things", "people, portraits", "people, all five forms", "artists, all five forms",
        "scenes",
    ]  # fmt: skip
    assert [len(g.answers) for g in asked] == [10, 30, 60, 200, 200, 40, 10]
    for group in asked:
        assert set(group.answers.values()) <= set(HEADS[group.head])
