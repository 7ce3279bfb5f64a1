"""The examples of docs/library.md, run one after another as a reader would."""

import re
from pathlib import Path

import pytest
import torch

import mace_studio

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "library.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_the_examples_run(few_captions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mace_studio.sd.model.captions_of", lambda source: few_captions)
    names = {}
    for number, block in enumerate(BLOCKS):
        exec(compile(block, f"docs/library.md, example {number + 1}", "exec"), names)
    said = capsys.readouterr().out
    assert len(BLOCKS) >= 8
    # The pipeline has the erasure's weights, and the images show it: with the cat gone, it changes and the dog stays.
    weights = names["pipeline"].unet.state_dict()
    assert all(torch.equal(weights[key], value) for key, value in names["erasure"].weights.items())
    assert len(names["images"]) == 2
    assert (tmp_path / "cat.safetensors").is_file() and (tmp_path / "cat-lora.safetensors").is_file()
    changes = {prompt: float(change) for prompt, change in re.findall(r"^a photo of a (\w+) 0 ([\d.]+)$", said, re.M)}
    assert changes["cat"] > changes["dog"]
    assert "H_c, top-1" in said and "100%" in said


@pytest.mark.parametrize("name", mace_studio.__all__)
def test_every_name_of_the_library_is_there_and_says_what_it_is(name):
    assert getattr(mace_studio, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="erode"):
        _ = mace_studio.erode
    assert set(mace_studio.__all__) <= set(dir(mace_studio))
