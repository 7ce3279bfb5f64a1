import pytest
import torch

from mace_studio.sd import attention_hooks, text


class ByHand:
    """An attention processor that keeps the probabilities that diffusers itself computes."""

    def __init__(self, kept):
        self.kept = kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = attn.head_to_batch_dim(attn.to_k(context)), attn.head_to_batch_dim(attn.to_v(context))
        scores = attn.get_attention_scores(query, key)
        if encoder_hidden_states is not None:
            self.kept.append(scores.unflatten(0, (-1, attn.heads)))
        return attn.to_out[0](attn.batch_to_head_dim(scores @ value))


def forward(model):
    unet = model.unet
    size = unet.config.sample_size
    rows, columns = (size, size) if isinstance(size, int) else size
    noisy = torch.randn(2, unet.config.in_channels, rows, columns, generator=torch.Generator().manual_seed(1))
    context = text.embed(model, ["a photo of the cat", "Ada Finch walking"])
    with torch.no_grad():
        return unet(noisy, 300, context).sample


@pytest.mark.parametrize("which", ["model", "other"])
def test_probabilities_are_those_of_diffusers_and_the_output_is_bit_equal(which, request):
    model = request.getfixturevalue(which)
    plain, seen, kept = forward(model), {}, []
    with attention_hooks.attention(model.unet, lambda name, p: seen.update({name: p})):
        watched = forward(model)
    assert torch.equal(plain, watched)
    usual = dict(model.unet.attn_processors)
    try:
        model.unet.set_attn_processor(ByHand(kept))
        forward(model)
    finally:
        model.unet.set_attn_processor(usual)
    assert len(seen) == len(kept) > 0
    for ours, theirs in zip(seen.values(), kept, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(ours.sum(-1), torch.ones_like(ours[..., 0]), atol=1e-4, rtol=0)


def test_a_forward_that_ends_early_gives_the_same_maps(model, unchanged):
    seen = []
    with attention_hooks.attention(model.unet, lambda _, p: seen.append(p)):
        forward(model)
    ended = []
    maps = attention_hooks.of_forward(model.unet, lambda: ended.append(forward(model)))
    assert not ended, "the forward went on after the last map"
    assert all(torch.equal(a, b) for a, b in zip(seen, maps, strict=True))


def test_two_captures_at_once_are_refused_and_nothing_stays_hooked(model, unchanged):
    with (
        attention_hooks.attention(model.unet, lambda *_: None),
        pytest.raises(RuntimeError, match="captured already"),
        attention_hooks.attention(model.unet, lambda *_: None),
    ):
        pass
    with pytest.raises(KeyError), attention_hooks.attention(model.unet, lambda *_: None):
        raise KeyError
    with attention_hooks.attention(model.unet, lambda *_: None):
        forward(model)
