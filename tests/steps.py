"""What several tests do: cancel at some event, watch over a model, and find what is on the page."""

import re
from contextlib import contextmanager

import pytest
import torch

from mace_studio.progress import Cancelled


@contextmanager
def cancelled(reached):
    """A progress callback that cancels at the first event for which `reached` is true; fails if the block goes on.

    Its `seen` are the events until then.
    """
    seen = []

    def progress(event):
        seen.append(event)
        assert not reached(seen[-2]) if len(seen) > 1 else True, "the job went on after it was cancelled"
        if reached(event):
            raise Cancelled

    progress.seen = seen
    with pytest.raises(Cancelled):
        yield progress


@contextmanager
def untouched(model):
    """Fails if the block leaves any tensor, hook or attribute of a model other than it was."""
    parts = {name: part for name, part in model.pipeline.components.items() if isinstance(part, torch.nn.Module)}
    before = {n: {k: t.clone() for k, t in part.state_dict().items()} for n, part in parts.items()}
    scheduler, identities = model.pipeline.scheduler, [id(p) for p in model.unet.parameters()]
    yield
    assert model.pipeline.scheduler is scheduler
    assert [id(p) for p in model.unet.parameters()] == identities
    for name, part in parts.items():
        state = part.state_dict()
        assert list(state) == list(before[name])
        assert all(torch.equal(tensor, state[key]) for key, tensor in before[name].items())
        if not name.startswith("text_encoder"):  # transformers hooks those itself, to collect hidden states
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in part.modules())
        assert not hasattr(part, "peft_config")


def choose(page, dropdown, option):
    """Choose an option of a dropdown on the page."""
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=option, exact=True).click()


def choose_preset(page, title):
    """Choose a preset by its title."""
    page.locator("#preset select").select_option(label=title)


def choose_model(page, dropdown, title):
    """Choose an erased model by its title, which the list shows with time and method."""
    page.locator(f"{dropdown} input").click()
    page.get_by_role("option", name=re.compile(f"^{re.escape(title)} · ")).click()


def field(page, elem_id):
    """The text field of a component on the page."""
    return page.locator(f"#{elem_id} :is(input[type=text], input:not([type]), textarea)").first
