import pytest
import torch

from mace_studio.sd import projections


def test_the_projections_are_the_text_keys_and_values_of_every_layer(model):
    both = projections.names(model.unet)
    assert len(both) == 2 * sum(name.endswith("attn2") for name, _ in model.unet.named_modules())
    assert projections.names(model.unet, "key") == [n for n in both if n.endswith("attn2.to_k")]
    assert projections.names(model.unet, "value") == [n for n in both if n.endswith("attn2.to_v")]
    assert all(weight_PD.shape[1] == model.width for weight_PD in projections.read(model.unet).values())


def test_swapped_weights_are_in_place_inside_and_gone_outside(model, unchanged):
    doubled = {key: 2 * weight_PD for key, weight_PD in projections.read(model.unet).items()}
    originals = {key: weight_PD.clone() for key, weight_PD in projections.read(model.unet).items()}
    with projections.swapped(model.unet, doubled):
        inside = projections.read(model.unet)
        assert all(torch.equal(inside[key], 2 * originals[key]) for key in originals)
    assert all(torch.equal(w, originals[key]) for key, w in projections.read(model.unet).items())


def test_weights_return_after_an_exception(model, unchanged):
    zeros = {key: torch.zeros_like(weight_PD) for key, weight_PD in projections.read(model.unet).items()}
    with pytest.raises(KeyError), projections.swapped(model.unet, zeros):
        raise KeyError


def test_a_second_swap_is_refused_and_the_first_one_still_ends_well(model, unchanged):
    weights = projections.read(model.unet)
    zeros = {key: torch.zeros_like(weight_PD) for key, weight_PD in weights.items()}
    with projections.swapped(model.unet, zeros):
        with pytest.raises(RuntimeError, match="swapped already"), projections.swapped(model.unet, weights):
            pass
        assert all((weight_PD == 0).all() for weight_PD in projections.read(model.unet).values())


@pytest.mark.parametrize("key, columns", [("conv_in.weight", 3), (None, 1)])
def test_what_does_not_fit_is_refused_before_anything_changes(model, unchanged, key, columns):
    key = key or next(iter(projections.read(model.unet)))
    with pytest.raises(ValueError, match=key), projections.swapped(model.unet, {key: torch.zeros(2, columns)}):
        pass
