"""Which safetensors files of a part belong together: its weights, or one of several variants, whole or in shards."""

from __future__ import annotations

import re
from collections.abc import Iterable

# `diffusion_pytorch_model.fp16-00001-of-00002.safetensors`, and the older order with the variant after the number.
NAME = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|model)(?:\.(?P<variant>[\w.-]+?))?(?:-\d+-of-(?P<shards>\d+)(?:\.(?P<older>[\w.-]+))?)?"
    r"\.safetensors"
)
PREFERRED = (None, "fp16", "bf16", "fp32", "ema", "ema_only")
MOST = 10**5  # shards of a name that is read
LAST = "non_ema"  # the training's own weights, of which the others are the average


def variants(names: Iterable[str]) -> dict[str | None, list[str]]:
    """Variant -> its files, the best first; None stands for weights without a variant in their names.

    One that lacks shards, as a download that was broken off leaves it, comes after those that are whole, but before
    the training's own: nobody gets these in place of their average unsaid.

    Args:
        names: of the files in the folder of one part.
    """
    found: dict[str | None, list[str]] = {}
    lacking: dict[str | None, int] = {}
    for name in sorted(names):
        if match := NAME.fullmatch(name):
            variant = match["variant"] or match["older"]
            found.setdefault(variant, []).append(name)
            lacking[variant] = min(lacking.get(variant, MOST), int((match["shards"] or "1")[:5]) - len(found[variant]))
    ranks = {variant: _rank(variant) for variant in found}
    order = sorted(found, key=lambda one: (ranks[one][0] > len(PREFERRED), lacking[one] > 0, *ranks[one]))
    return {variant: found[variant] for variant in order}


def needed(names: Iterable[str]) -> list[str]:
    """The files of one part that are worth downloading: one variant's weights, and all that is no weights.

    Args:
        names: of the files in the folder of one part.
    """
    names = list(names)
    found = variants(names)
    chosen = next(iter(found.values()), [])
    small = (".json", ".txt", ".model")
    return [name for name in names if name in chosen or name.endswith(small)]


def _rank(variant: str | None) -> tuple[int, str]:
    same = variant and variant.replace("-", "_")  # ema-only is ema_only
    if same and same.endswith(LAST):
        return len(PREFERRED) + 1, same
    known = PREFERRED.index(same) if same in PREFERRED else len(PREFERRED)
    return known, variant or ""
