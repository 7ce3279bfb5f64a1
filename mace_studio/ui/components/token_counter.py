"""How many tokens prompts have, and what of them the model does not read, as escaped HTML."""

from __future__ import annotations

import html
from collections.abc import Sequence

from mace_studio import sources
from mace_studio.runtime.studio import Studio


def token_counter(studio: Studio, prompts: Sequence[str]) -> str:
    """The tokens of the longest prompt, and what is cut off of each; nothing until a model is loaded."""
    counts = studio.token_counts(list(prompts))
    if not counts:
        return ""
    count, most, _ = max(counts)
    said = f"{count} of {most} tokens{', the longest prompt' if len(counts) > 1 else ''}"
    cut = "".join(
        f'<p class="estimate is-missing">{html.escape(f"Not read, beyond {most} tokens: “{sources.shown(rest)}”")}</p>'
        for _, _, rest in counts
        if rest
    )
    return f'<p class="hint tokens">{said}</p>{cut}'
