"""What the form suggests while it is filled: mappings for concepts without one of their own, and neighbours to keep."""

from __future__ import annotations

from collections.abc import Collection
from itertools import islice
from typing import Any

import gradio as gr

from mace_studio import neighbours, prompts
from mace_studio.recipe import Recipe
from mace_studio.runtime import vocabulary
from mace_studio.runtime.studio import Studio
from mace_studio.ui.components.chips import chips, listed
from mace_studio.ui.components.token_counter import token_counter

ROWS, EACH, NEIGHBOURS = 3, 2, 6  # concepts without a mapping of their own, mappings of each, neighbours

Update = dict[Any, Any]


class Suggested:
    """Builds suggestions into the form's cards.

    Args:
        studio: knows what the loaded model has learned.

    Attributes:
        mappings, tokens: below the concepts.
        neighbours, kept_tokens: below the list of what to keep.
    """

    def __init__(self, studio: Studio) -> None:
        self.studio = studio

    def below_concepts(self) -> None:
        """Suggested mappings, and how long the prompts about the concepts are."""
        self.mappings = chips("Suggested mappings", "suggested-mappings", "#concepts")
        self.tokens = gr.HTML("", label="Tokens", elem_id="concept-tokens")

    def below_keep(self) -> None:
        """Suggested neighbours, and how long the prompts about what is kept are."""
        self.neighbours = chips("Neighbours to keep", "suggested-neighbours", "#preserve")
        self.kept_tokens = gr.HTML("", label="Tokens of what is kept", elem_id="preserve-tokens")

    @property
    def shown(self) -> list[gr.HTML]:
        """What `update` updates."""
        return [self.mappings, self.tokens, self.neighbours, self.kept_tokens]

    def update(self, recipe: Recipe, left_over: Collection[int] = ()) -> Update:
        """What suits a recipe as it is typed.

        Args:
            recipe: that of the form.
            left_over: places of concepts whose mapping came with another phrase.
        """
        own = self.studio.vocabulary()
        known = vocabulary.known(own)
        texts: list[str] = []
        picks: list[list[str]] = []
        named = [(i, c) for i, c in enumerate(recipe.concepts) if c.phrase.strip()]
        asked = [c for i, c in named if i in left_over or not c.mapping.strip()]
        found = ((c, neighbours.mappings(c, own.kinds if own else None)) for c in asked)
        for concept, mappings in islice((one for one in found if one[0].mapping not in one[1]), ROWS):
            for mapping in mappings[:EACH]:
                texts.append(f"{concept.phrase.strip()} → {mapping}")
                picks.append([concept.phrase, mapping])
        near = neighbours.of(recipe, known, only=own is not None, count=NEIGHBOURS) if named else []
        erased = [prompts.image_prompt(c.phrase, c.kind) for c in recipe.concepts if c.phrase.strip()]
        kept = [prompts.image_prompt(p, prompts.kept_kind(p, recipe)) for p in recipe.preserve if recipe.concepts]
        return {
            self.mappings: listed("Map", texts, picks),
            self.tokens: token_counter(self.studio, erased),
            self.kept_tokens: token_counter(self.studio, kept),
            self.neighbours: listed("Neighbours", [f"+ {phrase}" for phrase in near], near),
        }
