"""A damaged file of the cache is made again; nobody reads what is not whole."""

import os
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from mace_studio import caption_files
from mace_studio.methods import inputs, selective_amnesia, training
from mace_studio.methods.settings import SelectiveAmnesiaSettings
from mace_studio.progress import silent
from mace_studio.recipe import ImageRequest
from mace_studio.sd import files, grams, image_cache, sampling
from mace_studio.sd import model as sd_model
from mace_studio.settings import ImageSettings

WANTED = [sampling.TrainingImage("a photo of a cat", "cat", 3)]
SHORT = ImageSettings(steps=1, guidance=2.0)


@pytest.fixture(scope="module")
def few(other_folder, tmp_path_factory):
    captions = tmp_path_factory.mktemp("captions") / "few.txt"
    captions.write_text("\ufeffa cat sits\na dog runs", encoding="utf-8")
    model = sd_model.load(str(other_folder), "cpu", "float32", captions=captions)
    assert caption_files.read_captions(captions) == ["a cat sits", "a dog runs"]
    return model


def gram(model, cache):
    grams.forget()
    return grams.general(model, cache).gram_DD


def fisher(model, cache):
    replay = selective_amnesia.Images(
        phrases=[""], latents_NCHW=torch.ones(1, 4, 8, 12), prompts=training.Prompts.of(model, ["a cat"])
    )
    settings = SelectiveAmnesiaSettings(replay=1, stride=1000, image_guidance=1.0)
    copies = training.masters(model, ["conv_in.bias"])
    return selective_amnesia.cached_fisher(model, settings, replay, copies, cache, silent)["conv_in.bias"]


# What keeps tensors in the cache, but for LoRAs, which have a test of their own.
MADE = {
    "training image": lambda model, cache: sampling.training_images(model, WANTED, SHORT, cache)[0].latent_CHW,
    "gram": gram,
    "words": lambda model, cache: inputs.general_words(model, cache, silent),
    "fisher": fisher,
}


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def garbage(path):
    path.write_bytes(os.urandom(500))


def misshapen(path):
    save_file({name: torch.zeros(3, 3) for name in load_file(path)}, path)


def nameless(path):
    save_file({"something": torch.zeros(3)}, path)


def infinite(path):
    save_file({name: tensor * float("nan") for name, tensor in load_file(path).items()}, path)


def integers(path):
    save_file({name: tensor.to(torch.int32) for name, tensor in load_file(path).items()}, path)


def one_bit(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1  # of a number that stays finite
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [cut, empty, garbage, misshapen, nameless, infinite, integers, one_bit])
@pytest.mark.parametrize("kind", MADE)
def test_a_damaged_file_is_made_again(few, tmp_path, kind, damage):
    def make():
        return MADE[kind](few, tmp_path)

    first = make()
    (path,) = tmp_path.glob("*.safetensors")
    whole = path.read_bytes()
    damage(path)
    assert torch.equal(make(), first) and path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", [cut, empty, garbage])
def test_a_damaged_image_is_made_again(few, tmp_path, damage):
    request = ImageRequest(("a cat",), steps=1)
    (first,) = image_cache.generate(few, request.pairs(), request, tmp_path)
    (path,) = tmp_path.rglob("*.png")
    whole = path.read_bytes()
    damage(path)
    (again,) = image_cache.generate(few, request.pairs(), request, tmp_path)
    assert again.tobytes() == first.tobytes() and path.read_bytes() == whole


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_an_image_of_other_channels_is_made_again(few, tmp_path, mode):
    request = ImageRequest(("a cat",), steps=1)
    (first,) = image_cache.generate(few, request.pairs(), request, tmp_path)
    (path,) = tmp_path.rglob("*.png")
    first.convert(mode).save(path)
    (again,) = image_cache.generate(few, request.pairs(), request, tmp_path)
    assert again.tobytes() == first.tobytes()


def test_an_image_of_another_size_is_made_again(few, tmp_path):
    request = ImageRequest(("a cat",), steps=1)
    (first,) = image_cache.generate(few, request.pairs(), request, tmp_path)
    (path,) = tmp_path.rglob("*.png")
    first.resize((8, 8)).save(path)
    (again,) = image_cache.generate(few, request.pairs(), request, tmp_path)
    assert again.size == first.size == (48, 32)


def test_what_dead_processes_left_is_removed_and_what_others_write_stays(tmp_path):
    code = "import sys; from pathlib import Path; from mace_studio.sd import files; import os\n" \
        "with files.staging(Path(sys.argv[1])) as stage: (stage / 'half').touch(); os._exit(9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "deep")], check=False, cwd=os.getcwd())
    (left,) = (tmp_path / "deep").iterdir()
    old = tmp_path / ".cat.safetensors.part"
    old.touch()
    os.utime(old, (0, 0))
    fresh = tmp_path / ".other.part"
    fresh.touch()
    with files.staging(tmp_path) as mine:
        assert files.remove_abandoned(tmp_path) == 2
        assert mine.is_dir() and fresh.exists() and not left.exists() and not old.exists()


def test_two_processes_write_one_file_without_colliding(tmp_path):
    path = tmp_path / "one.safetensors"
    with files.staging(tmp_path) as first, files.staging(tmp_path) as second:
        assert first != second
    for value in (1.0, 2.0):
        files.write(path, {"x": torch.full((2,), value)})
    assert load_file(path)["x"].tolist() == [2.0, 2.0] and [p.name for p in tmp_path.iterdir()] == [path.name]
