"""What people paste as a model: quotes, addresses, folders above the model."""

import os
import time
from pathlib import Path

import pytest

from mace_studio import sources
from mace_studio.errors import ModelError


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "my model"
    made.mkdir()
    (made / "model_index.json").write_text("{}", encoding="utf-8")
    return made


@pytest.mark.parametrize(
    "form",
    ["{}", "  {}  ", "{}\n", '"{}"', "'{}'", "“{}”", "‘{}’", "`{}`", "«{}»", ' "{}" ', "\"'{}'\"", "\ufeff{}",
     "{}\u200b", "{}/", "{}/model_index.json", "\u00a0{}\u00a0"],
)  # fmt: skip
def test_a_folder_is_found_however_it_was_pasted(folder, form):
    assert Path(sources.cleaned(form.format(folder))) == folder


def test_file_addresses_are_paths(folder):
    assert Path(sources.cleaned(folder.as_uri())) == folder
    assert "%20" in folder.as_uri()
    assert Path(sources.cleaned(f"file://localhost{folder.as_posix()}")) == folder
    assert sources.cleaned("file:///C:/models/sd") == "C:/models/sd"


def test_the_home_folder_is_written_out(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))
    assert Path(sources.cleaned("~/my model")) == folder
    assert Path(sources.cleaned("'~/my model/'")) == folder


@pytest.mark.parametrize(
    "address",
    [
        "owner/name", " owner/name ", "https://huggingface.co/owner/name", "http://huggingface.co/owner/name/",
        "https://huggingface.co/owner/name/tree/main", "https://huggingface.co/owner/name/tree/main/unet",
        "https://huggingface.co/owner/name?library=diffusers", "https://huggingface.co/owner/name#use",
        "https://huggingface.co:443/owner/name", "https://me:hf_secret@huggingface.co/owner/name",
        "huggingface.co/owner/name", "https://hf.co/owner/name", "hf://owner/name", "HTTPS://HuggingFace.co/owner/name",
        "https://huggingface.co/owner/name/blob/main/README.md", "https://huggingface.co/owner/name/discussions/3",
        "<https://huggingface.co/owner/name>", "owner/name/", "https://huggingface.co/owner/name.git",
        "https://huggingface.co/api/models/owner/name", "„owner/name“", "„owner/name”", "‹owner/name›", "»owner/name«",
        "“owner/name“", '"owner/name",', "'owner/name';", "\u202aowner/name\u202c", "\ufeff 'owner/name' \u200b",
    ],
)  # fmt: skip
def test_the_page_of_a_model_is_its_id(address):
    assert sources.cleaned(address) == "owner/name"


def test_marks_quotes_and_homes_of_others_are_read():
    assert sources.cleaned("\u202aC:\\models\\sd") == "C:\\models\\sd"
    assert sources.cleaned("‹C:\\models›,") == "C:\\models"
    assert sources.cleaned("~root/x") == os.path.expanduser("~root/x") != "~root/x"
    assert sources.cleaned("it's") == "it's"
    begun = time.process_time()
    with pytest.raises(ModelError):
        sources.cleaned('"' * 200_000)
    assert time.process_time() - begun < 1


@pytest.mark.parametrize(
    ("address", "says"),
    [
        ("https://civitai.com/models/4384", "download the .safetensors file"),
        ("https://huggingface.co/owner/name/blob/main/v1-5.safetensors", "one file of a hub repository"),
        ("https://huggingface.co/owner/name/resolve/main/v1-5.safetensors?download=true", "one file of a hub"),
        ("https://huggingface.co/owner/name/blob/main/v1-5.ckpt", "one file of a hub"),
        ("https://huggingface.co/owner/name/resolve/fp16/unet/diffusion_pytorch_model.bin", "one file of a hub"),
        ("https://huggingface.co/owner/name/tree/fp16", "the page of fp16, and a repository is loaded from its branch"),
        ("hf.co/owner/name/commit/0123abc", "the page of 0123abc, and"),
        ("https://huggingface.co/owner/name/tree/refs%2Fpr%2F1", "the page of refs/pr/1, and"),
        ("https://huggingface.co/%2e%2e/name", "not the page of a model"),
        ("hf://owner/name@fp16", "not the page of a model"),
        ("https://huggingface.co/owner", "not the page of a model"),
        ("https://huggingface.co/", "not the page of a model"),
        ("https://huggingface.co/datasets/owner/name", "not the page of a model"),
        ("", "Name a model"),
        (" \n", "Name a model"),
        ('""', "Name a model"),
        ("a" * 300, "has 300 characters"),
        ("a/" * 3000, "has 6000 characters"),
        ("owner/na\x00me", "holds characters"),
        ("owner/\ud800", "holds characters"),
        ("owner\nname", "holds characters"),
        ("file:///tmp/%00x", "holds characters"),
        ("https://huggingface.co/owner/na%0Ame", "holds characters"),
        ("http://[::1", "is no address"),
        ("file://[x/y", "is no address"),
        ("file://tmp/x", "another computer, tmp; the address .* three slashes: file:///tmp/x"),
        ("https://huggingface.co]/a/b", "is no address"),
    ],
)
def test_what_names_no_model_is_a_sentence(address, says):
    with pytest.raises(ModelError, match=says) as error:
        sources.cleaned(address)
    assert len(str(error.value)) < 400
    str(error.value).encode()


def test_a_folder_of_the_hubs_cache_is_the_snapshot_that_main_names(tmp_path):
    cache = tmp_path / "models--owner--name"
    for i, name in enumerate(("aaa", "bbb")):
        (cache / "snapshots" / name).mkdir(parents=True)
        (cache / "snapshots" / name / "model_index.json").write_text("{}", encoding="utf-8")
        os.utime(cache / "snapshots" / name, (i, i))
    assert sources.cleaned(str(cache)) == str(cache / "snapshots" / "bbb")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("aaa\n", encoding="utf-8")
    for given in (cache, cache / "snapshots", cache / "snapshots" / "aaa"):
        assert sources.cleaned(str(given)) == str(cache / "snapshots" / "aaa")


def test_a_folder_with_one_checkpoint_is_the_checkpoint(tmp_path):
    (tmp_path / "one.safetensors").touch()
    (tmp_path / "._one.safetensors").touch()
    (tmp_path / "readme.txt").touch()
    assert sources.cleaned(str(tmp_path)) == str(tmp_path / "one.safetensors")
    (tmp_path / "two.safetensors").touch()
    with pytest.raises(ModelError, match=r"holds 2 checkpoints; give the path of one: one.safetensors, two"):
        sources.cleaned(str(tmp_path))


def test_a_long_path_that_exists_is_taken(tmp_path):
    deep = tmp_path.joinpath(*["d" * 100] * 3)
    deep.mkdir(parents=True)
    assert len(str(deep)) > sources.LONGEST and sources.cleaned(str(deep)) == str(deep)
    assert not sources.is_hub_id(str(deep)) and sources.is_hub_id("owner/name") and sources.is_hub_id("gpt2")


@pytest.mark.parametrize("main", ["", ".", "../..", "/", "gone"])
def test_a_damaged_note_of_the_hubs_cache_costs_no_snapshot(tmp_path, main):
    kept = tmp_path / "models--owner--name"
    (kept / "snapshots" / "abc").mkdir(parents=True)
    (kept / "snapshots" / "abc" / "model_index.json").touch()
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(main, encoding="utf-8")
    assert Path(sources.cleaned(str(kept))) == kept / "snapshots" / "abc"
