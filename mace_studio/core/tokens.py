"""Where a concept sits in token ids, and which positions of two prompts belong together. Integers only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def occurrences(ids: Sequence[int], phrases: Iterable[Sequence[int]]) -> list[range]:
    """Every place where one of several spellings of a phrase stands in `ids`, from left to right, not overlapping.

    Args:
        ids: token ids of a prompt.
        phrases: token ids of the phrase; several where the tokeniser splits it differently in different contexts.
            Where two fit at the same place, the longer one counts.

    Returns:
        Ranges of positions.
    """
    spellings = sorted({tuple(p) for p in phrases if len(p)}, key=len, reverse=True)
    ids = tuple(ids)
    found, start = [], 0
    while start < len(ids):
        # The longest first, as they are sorted: “Ada” must not end the search for “Ada Finch”.
        length = next((len(p) for p in spellings if ids[start : start + len(p)] == p), 0)
        if length:
            found.append(range(start, start + length))
        start += length or 1
    return found


def pair_positions(concept_ids: Sequence[int], mapping_ids: Sequence[int], length: int) -> tuple[list[int], list[int]]:
    """The co-existing positions of a prompt about a concept and the same prompt about its mapping (section 3.2).

    The longest common prefix, then the longest common suffix that does not overlap it, then the padding positions
    one to one, cut where the side with less padding runs out. The words that differ are left out.

    Args:
        concept_ids: ids from the start token to the end token, without padding.
        mapping_ids: the same for the mapping.
        length: T, the number of positions of a padded prompt.

    Returns:
        Positions in the concept's prompt and in the mapping's prompt, equally many.

    Raises:
        ValueError: a prompt is longer than `length`.
    """
    longest, shortest = max(len(concept_ids), len(mapping_ids)), min(len(concept_ids), len(mapping_ids))
    if longest > length:
        raise ValueError(f"a prompt of {longest} tokens does not fit {length} positions")
    prefix = _common(concept_ids, mapping_ids)
    # No more than the prefix leaves: in “a a” and “a a a” the same tokens are both prefix and suffix.
    suffix = min(_common(concept_ids[::-1], mapping_ids[::-1]), shortest - prefix)
    concept = [*range(prefix), *range(len(concept_ids) - suffix, len(concept_ids) + length - longest)]
    mapping = [*range(prefix), *range(len(mapping_ids) - suffix, len(mapping_ids) + length - longest)]
    return concept, mapping


def without_padding(ids: Sequence[int], end: int) -> list[int]:
    """`ids` up to and with the first end token; all of them if there is none.

    Right also where the padding token is the end token itself, since the first one closes the text.

    Args:
        ids: token ids of one prompt, with its start token.
        end: id of the end token.
    """
    ids = list(ids)
    return ids[: ids.index(end) + 1] if end in ids else ids


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many items are equal from the start on."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))
