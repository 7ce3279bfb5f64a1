"""How the built-in model is trained: budget, checkpoints, losses, folders and the command."""

import itertools
import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from mace_studio.miniature import (
    ahead,
    autoencoder,
    checkpoints,
    clip,
    diffusion,
    folders,
    judge_training,
    latents,
    pictures,
    tokenizer,
    world,
)
from mace_studio.miniature.__main__ import main
from mace_studio.miniature.grounding import Hidden
from mace_studio.miniature.judge import Judge
from mace_studio.miniature.training import Plan, Training
from mace_studio.miniature.vocabulary import FOLDER

BUILT_IN = FOLDER.parent / "model"


def plan(steps: int | None, **changes) -> Plan:
    settings = dict(minutes=1, batch=4, rate=0.1, warm_up=2, decay=0.5, weight_decay=0.0, average=0.9, steps=steps)
    return Plan(**(settings | changes))


def line(tmp_path, steps: int | None, **changes):
    """A line through points that depend on the step alone."""
    torch.manual_seed(0)
    module = nn.Linear(3, 1)
    going = Training({"line": module}, plan(steps, **changes), tmp_path / "line")

    def loss(step: int) -> torch.Tensor:
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        return (module(x) - x.sum(dim=1, keepdim=True)).square().mean()

    return module, going, loss


def test_a_training_lowers_its_loss(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    _, going, loss = line(tmp_path, 60)
    going.run(loss)
    assert going.step == len(going.losses) == 60
    assert sum(going.losses[-10:]) < 0.2 * sum(going.losses[:10])
    assert "samples/s" in caplog.text
    assert (going.folder / "loss.png").stat().st_size > 1000


def test_a_resumed_training_ends_where_an_unbroken_one_does(tmp_path):
    whole, unbroken, loss = line(tmp_path / "a", 6, decay=1e-9)
    unbroken.run(loss)
    _, first, loss = line(tmp_path / "b", 3, decay=1e-9)
    first.run(loss)
    module, second, loss = line(tmp_path / "b", 6, decay=1e-9)
    second.resume()
    assert second.step == 3
    second.run(loss)
    assert second.step == 6
    assert second.seconds > first.seconds
    assert second.losses == pytest.approx(unbroken.losses)
    assert torch.equal(module.weight, whole.weight)
    with unbroken.averaged(), second.averaged():
        assert torch.equal(module.weight, whole.weight)


def test_resuming_without_a_checkpoint_starts_anew(tmp_path):
    _, going, _ = line(tmp_path, 2)
    going.resume()
    assert going.step == 0


def test_a_spent_budget_trains_no_more(tmp_path):
    _, going, _ = line(tmp_path, None, minutes=2)
    going.seconds = 120.0
    looks = []
    going.run(lambda step: pytest.fail("a step too many"), lambda: looks.append(1))
    assert looks == [1]


def test_the_rate_rises_and_falls(tmp_path):
    _, going, _ = line(tmp_path, 100, warm_up=4, decay=0.5)
    rates = {}
    for step in (0, 1, 3, 49, 75, 90, 100):
        going.step = step
        rates[step] = going.rate
    expected = {0: 0.025, 1: 0.05, 3: 0.1, 49: 0.1, 75: 0.05, 90: 0.02, 100: 0.002}
    assert rates == pytest.approx(expected)


def test_the_average_is_swapped_in_and_out(tmp_path):
    module, going, loss = line(tmp_path, 3)
    start = module.weight.detach().clone()
    going.run(loss)
    now = module.weight.detach().clone()
    with going.averaged():
        average = module.weight.detach().clone()
    assert torch.equal(module.weight, now)
    # After steps 1, 2, 3 the average keeps 2/21, 3/22, 4/23 of itself, so it is close to the last weights.
    assert not torch.equal(average, now)
    assert (average - now).norm() < (average - start).norm()


def test_what_asks_for_no_gradient_stays(tmp_path):
    module, going, loss = line(tmp_path, 1)
    module.bias.requires_grad_(False)
    going = Training({"line": module}, plan(3), tmp_path / "frozen")
    bias = module.bias.detach().clone()
    going.run(loss)
    assert torch.equal(module.bias, bias)


def test_checkpoints_are_whole_and_only_the_latest_stays(tmp_path):
    assert checkpoints.latest(tmp_path) is None
    for step in (5, 10):
        checkpoints.save(tmp_path, step, {"w": torch.full((2,), step)}, {"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10.pt", "step-10.safetensors"]
    # Killed between the two files of the next, and in the middle of a file.
    (tmp_path / "step-15.safetensors").write_bytes(b"new")
    (tmp_path / "step-15.pt.part").write_bytes(b"half")
    weights, state = checkpoints.latest(tmp_path)
    assert (weights["w"].tolist(), state) == ([10, 10], {"step": 10})


def test_the_autoencoder_s_loss_by_hand():
    pixels = torch.zeros(2, 3, 4, 4)
    assert autoencoder.loss(pixels, pixels, torch.zeros(2), 8) == 0
    # Off by .5 everywhere: .5 + .25, no slopes; a KL of 8 over 8 numbers counts 1e-5.
    assert autoencoder.loss(pixels, pixels + 0.5, torch.full((2,), 8.0), 8).item() == pytest.approx(0.75001)
    ramp = pixels + torch.tensor([0.0, 1, 0, 1])  # mean .5, mean square .5, slope 1 across and 0 down
    assert autoencoder.loss(pixels, ramp, torch.zeros(2), 8).item() == pytest.approx(2)


def test_psnr_by_hand(monkeypatch):
    # Off by .02 of a range of 2, which is .01 of a peak of 1: 40 dB.
    monkeypatch.setattr(autoencoder, "reconstructed", lambda vae, pixels: pixels + 0.02)
    assert autoencoder.psnr(None, number=8) == pytest.approx(40, abs=1e-3)


def test_training_the_decoder_leaves_the_latents_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(autoencoder, "HELD_OUT_NUMBER", 8)
    monkeypatch.setattr(autoencoder, "psnr", lambda vae: 0.0)
    vae = autoencoder.build()
    before = {name: tensor.clone() for name, tensor in vae.state_dict().items()}
    autoencoder.train(
        vae, replace(autoencoder.PLAN, steps=2, batch=2), tmp_path / "model", tmp_path / "vae", False, True
    )
    changed = {name.split(".")[0] for name, tensor in vae.state_dict().items() if not tensor.equal(before[name])}
    assert changed == {"decoder", "post_quant_conv"}
    saved = folders.load_vae(tmp_path / "model")
    assert saved.config.scaling_factor == vae.config.scaling_factor
    assert (tmp_path / "vae" / "sheet.png").exists()


def test_the_velocity_error_by_hand():
    generator = torch.Generator().manual_seed(0)
    latent, noise = torch.randn(2, 6, 2, 4, 4, generator=generator)
    alpha = torch.tensor([0.99, 0.9, 0.6, 0.3, 0.05, 0.005])
    right = alpha.sqrt()[:, None, None, None] * noise - (1 - alpha).sqrt()[:, None, None, None] * latent
    assert diffusion.velocity_error(right, latent, noise, alpha).item() == 0
    off = right.clone()
    off[4] += 2  # one of six samples, by 2 everywhere
    assert diffusion.velocity_error(off, latent, noise, alpha).item() == pytest.approx(4 / 6, rel=1e-5)


def test_what_a_caption_is_worth():
    """A UNet that paints the number that its caption stands for is right with its own caption alone."""
    count = 4
    data = latents.Latents(
        latent_NCHW=torch.arange(1.0, count + 1)[:, None, None, None].expand(-1, 8, 16, 16).half().contiguous(),
        mask_NHW=torch.zeros(count, 16, 16, dtype=torch.uint8),
        own_NT=torch.zeros(count, 3, dtype=torch.bool),
        caption_N=torch.arange(count, dtype=torch.int32),
        ids_KT=torch.tensor([[7, i, 8] for i in range(1, count + 1)] + [[7, 0, 8]], dtype=torch.int16),
    )

    class Known(latents.Contexts):
        def __init__(self):
            pass

        def of(self, caption_N):
            return data.ids_KT[caption_N].float()[..., None]

    class Painter:
        device = torch.device("cpu")

        def __call__(self, noisy_NCHW, timestep, context_NTD):
            clean_N111 = context_NTD[:, 1, 0][:, None, None, None]
            noise_NCHW = (noisy_NCHW - 0.6 * clean_N111) / 0.8
            return SimpleNamespace(sample=0.6 * noise_NCHW - 0.8 * clean_N111)

    own, none, other = diffusion.caption_gain(Painter(), data, Known(), torch.full((1000,), 0.36), 950)
    # Off by d in the latent the velocity is off by (0.36 / 0.8 + 0.8) d = 1.25 d; without a caption d is 1 to 4.
    assert own == pytest.approx(0, abs=1e-5) and other > 0
    assert 1.25**2 * 1 < none < 1.25**2 * 16


def test_latents_are_made_once(tmp_path, monkeypatch):
    vae, words = autoencoder.build(), tokenizer.build()
    made = latents.gather(vae, words, 6, tmp_path)
    assert made.latent_NCHW.shape == (6, 8, 16, 16)
    assert made.own_NT.shape == (6, 32)
    monkeypatch.setattr(vae, "encode", lambda *_: pytest.fail("made again"))
    assert torch.equal(latents.gather(vae, words, 6, tmp_path).latent_NCHW, made.latent_NCHW)
    monkeypatch.undo()
    with torch.no_grad():
        vae.encoder.conv_in.weight.mul_(2)
    assert not torch.equal(latents.gather(vae, words, 6, tmp_path).latent_NCHW, made.latent_NCHW)
    assert len(list(tmp_path.iterdir())) == 1


def test_pictures_to_tensors_and_back():
    images = [sample.image_HWC for sample in autoencoder.world.samples(2, 0)]
    pixels = pictures.to_tensor(images)
    assert pixels.shape == (2, 3, 64, 64)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert [image.tobytes() for image in pictures.to_images(pixels)] == [image.tobytes() for image in images]
    assert pictures.sheet(pictures.to_images(pixels), columns=2, zoom=1).size == (132, 66)


@pytest.fixture
def tiny(monkeypatch):
    """Few images for everything but the steps."""
    monkeypatch.setattr(diffusion, "SHEET", diffusion.SHEET[:1])
    monkeypatch.setattr(diffusion, "GAIN_NUMBER", 2)
    monkeypatch.setattr(
        diffusion, "generate", lambda whole, prompts, seed: whole(list(prompts), num_inference_steps=1)[0]
    )
    monkeypatch.setattr(clip, "named", lambda *_: [])
    monkeypatch.setattr(autoencoder, "HELD_OUT_NUMBER", 8)
    monkeypatch.setattr(autoencoder, "psnr", lambda vae: 0.0)
    monkeypatch.setattr(judge_training, "CALIBRATION_NUMBER", 16)


def test_the_command_trains_a_whole_model_and_goes_on(tmp_path, tiny):
    arguments = ["train", "--out", str(tmp_path), "--samples", "8", "--batch", "2", "--steps"]
    assert main([*arguments, "1"]) == 0
    assert main([*arguments, "2", "--resume"]) == 0
    for part in ("clip", "vae", "model", "judge"):
        _, state = checkpoints.latest(tmp_path / "training" / part)
        assert state["step"] == 2
    stored = torch.load(tmp_path / "training" / "model" / "step-2.pt", weights_only=True)
    assert len(stored["losses"]) == 2
    folders.load(tmp_path / "model")
    kinds = {t.dtype for file in (tmp_path / "model").rglob("*.safetensors") for t in load_file(file).values()}
    assert kinds == {torch.float16}
    assert isinstance(Judge.load(tmp_path / "judge"), Judge)
    for path in (tmp_path / "model").rglob("*.json"):
        assert not {"_name_or_path", "name_or_path"} & set(json.loads(path.read_text(encoding="utf-8")))


def test_the_command_goes_on_with_a_model(tmp_path, tiny):
    few = ["--out", str(tmp_path), "--samples", "8", "--batch", "2", "--steps", "1"]
    assert main(["train", "clip", *few]) == 0
    assert main(["train", "model", *few, "--start", str(BUILT_IN)]) == 0
    assert (tmp_path / "model/vae/config.json").read_bytes() == (BUILT_IN / "vae/config.json").read_bytes()
    before, after = folders.load(BUILT_IN), folders.load(tmp_path / "model")
    assert not torch.equal(before.unet.conv_in.weight, after.unet.conv_in.weight)
    assert (before.unet.conv_in.weight - after.unet.conv_in.weight).abs().max() < 0.01
    assert before.unet.config.block_out_channels == after.unet.config.block_out_channels
    text, words = folders.load_text(tmp_path / "clip")
    assert after.text_encoder.config.hidden_size == after.unet.config.cross_attention_dim == 320
    assert after.tokenizer("Ada Finch").input_ids == words("Ada Finch").input_ids
    for name, tensor in text.state_dict().items():
        assert torch.equal(after.text_encoder.state_dict()[name], tensor)


@pytest.mark.parametrize("hidden", [Hidden(), Hidden(only_words=0.9, without_concept=0.0, foreign_end=0.5)])
def test_the_command_says_what_captions_lose(tmp_path, tiny, monkeypatch, hidden):
    asked = []

    def loss(unet, batch, alphas_S, generator, step, hidden):
        asked.append(hidden)
        return unet.conv_in.weight.square().sum()

    monkeypatch.setattr(diffusion, "loss", loss)
    few = ["--out", str(tmp_path), "--samples", "8", "--batch", "2", "--steps", "1", "--start", str(BUILT_IN)]
    changes = {"--only-words": "0.9", "--without-concept": "0", "--foreign-end": "0.5"} if hidden != Hidden() else {}
    assert main(["train", "model", *few, *itertools.chain(*changes.items())]) == 0
    assert asked == [hidden]


def test_the_image_side_of_a_clip_can_be_trained_alone(tmp_path, tiny):
    few = ["train", "clip", "--out", str(tmp_path), "--batch", "4", "--steps", "1"]
    assert main(few) == 0
    before = folders.load_clip(tmp_path / "clip").state_dict()
    assert main([*few, "--image-side-only"]) == 0
    after = folders.load_clip(tmp_path / "clip").state_dict()
    changed = {name.split(".")[0] for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert {"vision_model", "visual_projection"} <= changed <= {*changed, "text_projection", "logit_scale"}
    assert "text_model" not in changed


def test_a_clip_can_be_put_around_the_text_encoder_of_a_model(tmp_path, tiny):
    few = ["train", "clip", "--out", str(tmp_path), "--batch", "4", "--steps", "1", "--workers", "1"]
    assert main([*few, "--image-side-only", "--start", str(BUILT_IN)]) == 0
    own, made = folders.load(BUILT_IN).text_encoder.state_dict(), folders.load_clip(tmp_path / "clip").text_model
    for name, tensor in made.state_dict().items():
        assert torch.equal(own[name], tensor)


def test_the_command_goes_on_with_the_text_encoder_of_a_model_where_there_is_no_clip(tmp_path, tiny):
    few = [
        "--out",
        str(tmp_path),
        "--samples",
        "70",
        "--batch",
        "2",
        "--steps",
        "1",
        "--rate",
        "1e-9",
        "--workers",
        "1",
    ]
    assert main(["train", "model", *few, "--rate", "1e-9", "--start", str(BUILT_IN)]) == 0
    before, after = folders.load(BUILT_IN), folders.load(tmp_path / "model")
    for part in ("unet", "text_encoder", "vae"):  # at this rate nothing moves by as much as float16 tells apart
        own, made = (getattr(whole, part).state_dict() for whole in (before, after))
        assert all(torch.allclose(own[name], made[name], atol=1e-4) for name in own)


def test_samples_are_the_same_whoever_composes_them(tmp_path):
    def seen(samples):
        return [(sample.caption, sample.image_HWC.tobytes(), sample.mask_HW.tobytes()) for sample in samples]

    here, elsewhere = ahead.Steps(3, workers=0), ahead.Steps(3, workers=2)
    for step in (4, 5, 6):  # a training that goes on does not begin with the first step
        asked = seen(world.samples(3, step))
        assert seen(here(step)) == asked and seen(elsewhere(step)) == asked
    vae, words = autoencoder.build(), tokenizer.build()
    one, other = (latents.gather(vae, words, 70, tmp_path / str(n), workers=n) for n in (0, 2))
    assert one.ids_KT.equal(other.ids_KT) and one.latent_NCHW.equal(other.latent_NCHW) and len(one.mask_NHW) == 70


def test_image_sides_without_a_clip_are_told_in_a_sentence(tmp_path, capsys):
    assert main(["train", "clip", "--image-side-only", "--out", str(tmp_path)]) == 1
    assert "holds no CLIP; train one first" in capsys.readouterr().err


def test_a_model_without_an_autoencoder_is_told_in_a_sentence(tmp_path, capsys):
    assert main(["train", "model", "--out", str(tmp_path)]) == 1
    assert "train one first" in capsys.readouterr().err


@pytest.mark.slow
def test_two_minutes_from_scratch_improve_every_loss(tmp_path):
    assert main(["train", "--out", str(tmp_path), "--minutes", "2", "--samples", "512"]) == 0
    for part, share in (("clip", 0.9), ("vae", 0.6), ("model", 0.8), ("judge", 0.7)):
        _, state = checkpoints.latest(tmp_path / "training" / part)
        tenth = max(1, len(state["losses"]) // 10)
        assert state["losses"][-tenth:].mean() < share * state["losses"][:tenth].mean(), part
