"""How many tokens prompts have, and what of them the model does not read or know, as escaped HTML."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from mace_studio import sources
from mace_studio.runtime.studio import Studio
from mace_studio.ui import form
from mace_studio.ui.components.text import estimate_missing
from mace_studio.ui.gradio_compat import QUIET
from mace_studio.ui.notices import readable

NAMED = 5  # words that are not known


def counted(studio: Studio, field: gr.Textbox, lines: bool = False) -> None:
    """Build a counter below a prompt's field, which counts at every edit.

    Args:
        studio: knows the loaded model.
        field: begins the counter's elem_id.
        lines: the field holds a prompt in each line, and not one prompt.
    """
    shown = gr.HTML("", label="Tokens", elem_id=f"{field.elem_id}-tokens")

    @readable
    def on_prompts(text: str) -> str:
        """Count tokens, and say what the model does not read and which words it does not know."""
        prompts = form.prompts_from(text) if lines else [(text or "").strip()]
        return token_counter(studio, [prompt for prompt in prompts if prompt]) + _unknown(studio, prompts)

    field.change(on_prompts, field, shown, trigger_mode="always_last", **QUIET)


def token_counter(studio: Studio, prompts: Sequence[str]) -> str:
    """The tokens of the longest prompt, and what is cut off of each; nothing until a model is loaded."""
    counts = studio.token_counts(list(prompts))
    if not counts:
        return ""
    count, most, _ = max(counts)
    said = f"{count} of {most} tokens{', the longest prompt' if len(counts) > 1 else ''}"
    cut = "".join(
        estimate_missing(f"Not read, beyond {most} tokens: “{sources.shown(rest)}”") for _, _, rest in counts if rest
    )
    return f'<p class="hint tokens">{said}</p>{cut}'


def _unknown(studio: Studio, prompts: Sequence[str]) -> str:
    """Which words of the prompts the model has not learned, where that is known."""
    own = studio.vocabulary()
    words = own.unknown_words(prompts) if own else []
    if not words:
        return ""
    named = ", ".join(f"“{word}”" for word in words[:NAMED])
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return estimate_missing(f"The loaded model has not learned {named}{more}: it shows nothing of that.")
