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
from mace_studio.ui.concept_text import Row
from mace_studio.ui.gradio_compat import QUIET
from mace_studio.ui.notices import readable

ROWS, EACH, NEIGHBOURS = 3, 2, 6  # concepts without a mapping of their own, mappings of each, neighbours

Update = dict[Any, Any]


class Suggested:
    """Builds suggestions into the form's cards; `wire` connects them.

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
        self.mappings = chips("Suggested mappings", "suggested-mappings")
        self.tokens = gr.HTML("", label="Tokens", elem_id="concept-tokens")

    def below_keep(self) -> None:
        """Suggested neighbours, and how long the prompts about what is kept are."""
        self.neighbours = chips("Neighbours to keep", "suggested-neighbours")
        self.kept_tokens = gr.HTML("", label="Tokens of what is kept", elem_id="preserve-tokens")

    @property
    def shown(self) -> list[gr.HTML]:
        """What `update` updates."""
        return [self.mappings, self.tokens, self.neighbours, self.kept_tokens]

    def wire(self, concepts: gr.HTML, preserve: gr.HTML) -> None:
        """Connect the suggestions to the table of concepts and the list of what to keep."""
        self.mappings.pick(self.on_mapping, concepts, concepts, **QUIET)
        self.neighbours.pick(self.on_neighbour, preserve, preserve, **QUIET)

    def update(self, recipe: Recipe, left_over: Collection[int] = ()) -> Update:
        """What suits a recipe as it is typed.

        Args:
            recipe: that of the form.
            left_over: places of concepts whose mapping came with another phrase.
        """
        own = self.studio.vocabulary()
        known = vocabulary.known(own)
        texts: list[str] = []
        picks: list[list[Any]] = []
        named = [(i, c) for i, c in enumerate(recipe.concepts) if c.phrase.strip()]
        asked = [(i, c) for i, c in named if i in left_over or not c.mapping.strip()]
        found = ((i, c, neighbours.mappings(c, own.kinds if own else None)) for i, c in asked)
        for i, concept, mappings in islice((one for one in found if one[1].mapping not in one[2]), ROWS):
            for mapping in mappings[:EACH]:
                texts.append(f"{concept.phrase.strip()} → {mapping}")
                picks.append([i, mapping])
        near = neighbours.of(recipe, known, only=own is not None, count=NEIGHBOURS) if named else []
        erased = [prompts.image_prompt(c.phrase, c.kind) for c in recipe.concepts if c.phrase.strip()]
        kept = [prompts.image_prompt(p, prompts.kept_kind(p, recipe)) for p in recipe.preserve if recipe.concepts]
        return {
            self.mappings: listed("Map", texts, picks),
            self.tokens: token_counter(self.studio, erased),
            self.kept_tokens: token_counter(self.studio, kept),
            self.neighbours: listed("Neighbours", [f"+ {phrase}" for phrase in near], near),
        }

    @readable
    def on_mapping(self, rows: list[Row], event: gr.EventData) -> list[Row]:
        """Map a concept as the pressed suggestion says."""
        place, mapping = event.pick
        return [[row[0], mapping, *row[2:]] if i == place else row for i, row in enumerate(rows)]

    @readable
    def on_neighbour(self, kept: list[str] | None, event: gr.EventData) -> list[str]:
        """Keep the pressed neighbour."""
        return list(dict.fromkeys([*(kept or []), event.pick]))
