from dataclasses import replace

import pytest
import torch

from mace_studio.core import attention
from mace_studio.recipe import ImageRequest
from mace_studio.runtime.studio import BUILT_IN
from mace_studio.sd import attention_hooks, attention_maps, sampling, text
from mace_studio.sd import model as sd_model

REQUEST = ImageRequest(("a cat in the forest",), (3,), steps=2, guidance=4.0)


def recorded(model, drawing, steps=None, phrases=()):
    words = text.words(model, drawing.negative), text.words(model, drawing.prompts[0], phrases)
    recorder = attention_maps.Recorder(
        words, steps or range(drawing.steps), attention_maps.latent_size(model, drawing.size)
    )
    with attention_hooks.attention(model.unet, recorder.receive):
        images = sampling.generate(model, drawing)
    return images[0], recorder.sides()


def layer(rows, columns, heads, tokens):
    """(2, heads, pixels, tokens): a pixel in row i attends to token i mod T alone, which columns know nothing of."""
    probabilities = torch.zeros(2, heads, rows, columns, tokens)
    for i in range(rows):
        probabilities[:, :, i, :, i % tokens] = 1
    return probabilities.flatten(2, 3)


@pytest.mark.parametrize("which", ["model", "other"])
def test_maps_sum_to_one_over_the_words_in_both_halves(which, request):
    _, sides = recorded(request.getfixturevalue(which), REQUEST)
    assert [side.words[0].text for side in sides] == ["start", "start"]
    assert [len(side.words) for side in sides] == [3, 8]
    for side in sides:
        for maps_SHTIJ in side.maps.values():
            assert maps_SHTIJ.shape[0] == 2 and maps_SHTIJ.shape[2] == len(side.words)
            assert torch.allclose(maps_SHTIJ.sum(2), torch.ones(()), atol=1e-4)
        assert torch.allclose(side.mean().sum(1), torch.ones(()), atol=1e-3)


def test_rows_are_rows_and_columns_are_columns(model):
    words = text.words(model, ""), text.words(model, "a cat")
    recorder = attention_maps.Recorder(words, range(1), (16, 24))
    recorder.receive("first", layer(16, 24, 2, model.length))
    recorder.receive("second", layer(8, 12, 2, model.length))
    _, side = recorder.sides()
    large, small = side.maps["16 x 24, 2 heads"], side.maps["8 x 12, 2 heads"]
    for word, i in ((1, 1), (2, 2)):  # "a" stands at position 1, "cat" at position 2
        expected = torch.zeros(16, 24)
        expected[i] = 1
        assert torch.equal(large[0, 0, word], expected)
        assert torch.equal(small[0, 0, word], expected[:8, :12])
    assert side.mean().shape == (1, len(words[1]), 16, 24)


def test_an_image_that_is_not_square_has_maps_of_its_shape(model):
    image, (_, side) = recorded(model, replace(REQUEST, size=(64, 96), steps=1))
    assert image.size == (96, 64)
    assert {tuple(m.shape[-2:]) for m in side.maps.values()} == {(16, 24), (8, 12), (4, 6)}


def test_a_range_of_steps_and_a_run_without_guidance(model):
    plain, (negative, positive) = recorded(model, REQUEST)
    again, (_, second) = recorded(model, REQUEST, steps=range(1, 2))
    assert list(plain.get_flattened_data()) == list(again.get_flattened_data())
    for group, maps_SHTIJ in second.maps.items():
        assert torch.equal(maps_SHTIJ, positive.maps[group][1:])
    _, sides = recorded(model, replace(REQUEST, guidance=1.0))
    assert len(sides) == 1 and sides[0].words == positive.words
    assert negative.words != positive.words


def test_the_mean_of_all_layers_keeps_the_mean_of_every_word(model):
    _, (_, side) = recorded(model, REQUEST)
    layers = sum(side.layers.values())
    by_hand = sum(n * side.maps[g].mean(dim=(1, 3, 4)) for g, n in side.layers.items()) / layers
    torch.testing.assert_close(side.mean().mean(dim=(2, 3)), by_hand, atol=1e-5, rtol=1e-4)
    group = max(side.maps)
    assert torch.equal(side.mean(group, head=1), side.maps[group][:, 1])
    assert side.heads() == 4


@pytest.mark.parametrize(("dtype", "most"), [("float16", 0.02), ("bfloat16", 0.1)])  # bfloat16 has three bits less
def test_half_precision_and_sdpa_have_the_same_maps_and_the_same_image(model, dtype, most):
    half = sd_model.load(str(BUILT_IN), "cpu", dtype)
    assert all("AttnProcessor2_0" in type(p).__name__ for p in half.unet.attn_processors.values())
    (plain,) = sampling.generate(half, REQUEST)
    image, (_, side) = recorded(half, REQUEST)
    assert list(plain.get_flattened_data()) == list(image.get_flattened_data())
    _, (_, full) = recorded(model, REQUEST)
    for group, maps_SHTIJ in side.maps.items():
        assert maps_SHTIJ.dtype == torch.float32
        assert torch.allclose(maps_SHTIJ.sum(2), torch.ones(()), atol=1e-4)
        difference_HTIJ = (maps_SHTIJ[0] - full.maps[group][0]).abs()
        assert difference_HTIJ.max() < most and difference_HTIJ.mean() < most / 50


def test_words_hold_every_position_once(model, other):
    for loaded in (model, other):
        for sentence in ("", "a cat", "Ada Finch walking, Nora Neonova style", "a winged creature " * 40):
            words = text.words(loaded, sentence, ["Ada Finch", "winged creature", "creature"])
            positions = [p for word in words for p in word.positions]
            assert positions == list(range(loaded.length))
            assert all(len(w.tokens) == len(w.positions) for w in words if w.role != "padding")


def test_a_phrase_is_one_word_and_is_marked(model):
    words = text.words(model, "Ada Finch and a finch", ["Ada Finch"])
    told = [(word.text, word.role) for word in words]
    assert told[1:-1] == [("Ada Finch", "concept"), ("and", "word"), ("a", "word"), ("finch", "word"), ("end", "end")]
    assert words[1].tokens == ("ad", "a</w>", "fin", "ch</w>") and words[1].positions == (1, 2, 3, 4)


def test_the_final_end_token_is_the_last_position_only_where_end_tokens_pad(model, other):
    for loaded, expected in ((model, model.length - 1), (other, 3)):
        assert text.final_end(loaded, text.ids(loaded, ["a cat"])[0]) == expected


@pytest.mark.parametrize("size", [(1088, 264), (1280, 328), (264, 1088)])
def test_very_narrow_images_have_the_sizes_that_the_layers_have(models, size):
    model = models["sd1"]
    layers = []
    rows, columns = (side // 8 for side in size)  # the latents that Stable Diffusion would have

    def before(module, args):
        layers.append(tuple(args[0].shape[-2:]))

    blocks = [module for module in model.unet.modules() if type(module).__name__ == "Transformer2DModel"]
    handles = [block.register_forward_pre_hook(before) for block in blocks]
    counts = []
    try:
        with torch.no_grad(), attention_hooks.attention(model.unet, lambda _, maps: counts.append(maps.shape[2])):
            model.unet(torch.zeros(1, 4, rows, columns), 1, torch.zeros(1, 4, 32))
    finally:
        for handle in handles:
            handle.remove()
    assert [attention.map_size(count, rows, columns) for count in counts] == layers
