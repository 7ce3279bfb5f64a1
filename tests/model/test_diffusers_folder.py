import json
import shutil

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from mace_studio.erasure import Erasure
from mace_studio.errors import FileError
from mace_studio.exports import diffusers_folder
from mace_studio.exports import export as exporting
from mace_studio.exports.formats import ExportRequest
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import model as sd_model
from mace_studio.sd import projections

UNET = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def base(other_folder, tmp_path):
    """A copy of the small model that a test may change."""
    return shutil.copytree(other_folder, tmp_path / "base")


def export_of(folder, path):
    """The folder's model with every projection doubled, as a folder; what was written is returned with the weights."""
    model = sd_model.load(str(folder), "cpu", "float32")
    weights = {key: 2 * weight_PD for key, weight_PD in projections.read(model.unet).items()}
    erasure = Erasure(
        recipe=Recipe(concepts=(Concept("cat", "forest"),)), weights=weights, fingerprint=model.fingerprint
    )
    exporting.export(model, erasure, ExportRequest("diffusers", path))
    return path, weights


def test_a_model_of_the_hub_is_copied_from_the_cache(base, tmp_path, monkeypatch):
    """The cache holds links to blobs under names of their own; a copy holds files."""
    cache = tmp_path / "cache"
    snapshot = cache / "models--someone--small" / "snapshots" / "abc"
    blobs = cache / "models--someone--small" / "blobs"
    (blobs.parent / "refs").mkdir(parents=True)
    (blobs.parent / "refs" / "main").write_text("abc")
    for i, path in enumerate(sorted(p for p in base.rglob("*") if p.is_file())):
        blobs.mkdir(exist_ok=True)
        shutil.copy(path, blobs / str(i))
        link = snapshot / path.relative_to(base)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(i))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    assert diffusers_folder.locate("someone/small") == snapshot
    path, weights = export_of("someone/small", tmp_path / "cat")
    assert not any(p.is_symlink() for p in path.rglob("*"))
    read = load_file(path / "unet" / UNET)
    assert all(torch.equal(read[key], weight_PD) for key, weight_PD in weights.items())
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "base_model: someone/small\n" in card and "licence is not stated" in card
    with pytest.raises(FileError, match=r"someone/large are no longer on this machine"):
        diffusers_folder.locate("someone/large")


def test_a_folder_and_a_file_are_where_they_are(base):
    assert diffusers_folder.locate(str(base)) == base
    assert diffusers_folder.locate(str(base / "unet" / UNET)) is None


def test_no_copy_of_the_old_weights_goes_along(base, tmp_path):
    """Beside the weights lie others of the same layers: a float16 variant, an unaveraged set, and pickles."""
    tensors = load_file(base / "unet" / UNET)
    save_file({k: t.half() for k, t in tensors.items()}, base / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    save_file(tensors, base / "unet" / "diffusion_pytorch_model.non_ema.safetensors")
    for name in (
        "diffusion_pytorch_model.bin",
        "diffusion_flax_model.msgpack",
        "model.onnx",
        "diffusion.bin.index.json",
    ):
        (base / "unet" / name).write_text("old weights")
    path, weights = export_of(base, tmp_path / "cat")
    written = {p.name for p in (path / "unet").iterdir()}
    assert written == {
        "config.json", UNET, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors",
    }  # fmt: skip
    for name in written - {"config.json"}:
        read = load_file(path / "unet" / name)
        assert all(torch.equal(read[key], weight_PD.to(read[key].dtype)) for key, weight_PD in weights.items())
        assert read["conv_in.weight"].dtype == (torch.float16 if "fp16" in name else torch.float32)


def test_weights_in_several_files_are_changed_in_all_of_them(base, tmp_path):
    tensors = load_file(base / "unet" / UNET)
    names, half = sorted(tensors), len(tensors) // 2
    shards = {
        "diffusion_pytorch_model-00001-of-00002.safetensors": names[:half],
        "diffusion_pytorch_model-00002-of-00002.safetensors": names[half:],
    }
    where = {}
    for file, keys in shards.items():
        save_file({key: tensors[key] for key in keys}, base / "unet" / file, {"format": "pt"})
        where |= dict.fromkeys(keys, file)
    (base / "unet" / UNET).unlink()
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
    (base / "unet" / f"{UNET}.index.json").write_text(json.dumps(index))
    assert len({where[key] for key in where if "attn2.to_k" in key}) == 2
    path, weights = export_of(base, tmp_path / "cat")
    read = projections.read(sd_model.load(str(path), "cpu", "float32").unet)
    assert all(torch.equal(read[key], weight_PD) for key, weight_PD in weights.items())


def test_weights_that_no_file_has_are_said(base, tmp_path, monkeypatch):
    rewrite = diffusers_folder.rewrite
    monkeypatch.setattr(
        diffusers_folder, "rewrite", lambda s, t, w, *rest: rewrite(s, t, dict(list(w.items())[1:]), *rest)
    )
    with pytest.raises(FileError, match="lack 1 of the weights"):
        export_of(base, tmp_path / "cat")
    assert not (tmp_path / "cat").exists()


def test_a_part_that_was_never_downloaded_is_taken_out_of_the_index(base, tmp_path):
    index = json.loads((base / "model_index.json").read_text())
    index |= {"safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"], "requires_safety_checker": True}
    (base / "model_index.json").write_text(json.dumps(index))
    path, _ = export_of(base, tmp_path / "cat")
    written = json.loads((path / "model_index.json").read_text())
    assert written["safety_checker"] == [None, None] and written["requires_safety_checker"] is False
    assert written["unet"] == index["unet"]


def test_licence_and_captions_go_along_and_other_files_do_not(base, tmp_path):
    (base / "LICENSE.md").write_text("be good")
    (base / "captions.txt").write_text("a ship")
    (base / "v1-5-pruned.ckpt").write_text("old weights")
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: 'openrail-x'\n---\n# Base\nlicense: mit\n")
    path, _ = export_of(base, tmp_path / "cat")
    assert (path / "LICENSE.md").read_text() == "be good" and (path / "captions.txt").read_text() == "a ship"
    assert not (path / "v1-5-pruned.ckpt").exists()
    card = (path / "README.md").read_text(encoding="utf-8")
    assert "# Base" not in card and "whose licence is openrail-x" in card


@pytest.mark.parametrize(
    "front, named",
    [
        ("---\nlicense: mit\n---\n", "mit"),
        ("# A model\nlicense: mit\n", None),
        ("", None),
        ("---\ntags: [a]\n---", None),
        ("\ufeff---\r\nlicense: mit\r\n---\r\n", "mit"),
        ("---\nlicense: other\nlicense_name: its-own\n---", "its-own"),
        ("---\nlicense:\nlicense_name: its-own\n---", "its-own"),
        ("---\nlicense:\ntags: mit\n---", None),
        ("---\n" + "\n" * 200_000 + "x", None),  # in no time
    ],
)
def test_the_licence_is_read_from_the_front_matter_only(tmp_path, front, named):
    (tmp_path / "README.md").write_text(front, encoding="utf-8")
    assert diffusers_folder.licence(tmp_path) == named
    assert diffusers_folder.licence(tmp_path / "nothing") is None and diffusers_folder.licence(None) is None


def test_an_index_cannot_name_a_folder_outside(base, tmp_path):
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("")
    index = json.loads((base / "model_index.json").read_text()) | {"../secret": ["a", "b"], "..": ["a", "b"]}
    (base / "model_index.json").write_text(json.dumps(index))
    assert not any("secret" in str(name) or ".." in name.parts for name in diffusers_folder.contents(base))


def test_files_that_cannot_be_read_are_said(base, tmp_path):
    (base / "broken.safetensors").write_text("hello")
    with pytest.raises(FileError, match=r"broken\.safetensors of the base model cannot be read"):
        diffusers_folder.rewrite(base / "broken.safetensors", tmp_path / "out", {}, {})
    (base / "model_index.json").write_text("{")
    with pytest.raises(FileError, match=r"model_index\.json cannot be read"):
        diffusers_folder.contents(base)
