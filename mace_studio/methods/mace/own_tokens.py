"""Where a LoRA acts: at all positions of its prompts, or at the concept's own tokens alone, which is not of the paper.

The start token and the words before a concept have the same embeddings whatever the concept is, and what a LoRA
changes there, the fusion changes in every prompt. A text encoder that looks back alone also gives two phrases the same
embeddings as far as they begin alike: what is asked of the Ada of Ada Finch is asked of that of Ada Frost.
"""

from __future__ import annotations

from mace_studio import prompts
from mace_studio.recipe import Concept, Recipe
from mace_studio.sd import text
from mace_studio.sd.model import Model


class OwnTokens:
    """The positions at which the LoRAs of a recipe act.

    Args:
        model: its tokenizer splits.
        recipe: its preserve list, and `lora.own_tokens`.
    """

    def __init__(self, model: Model, recipe: Recipe) -> None:
        self._model, self._alone = model, recipe.settings.lora.own_tokens
        kept = text.ids(model, recipe.preserve) if self._alone and recipe.preserve else []
        # Every beginning of every kept phrase, so that each concept is looked up and not searched for.
        self._begun = {tuple(row[1 : end + 1]) for row in kept for end in range(1, len(row) - 1)}

    def shared(self, concept: Concept) -> int:
        """With how many first tokens of a concept a kept phrase begins, too; at least its last one is its own.

        Args:
            concept: of the recipe.
        """
        (row,) = text.ids(self._model, [concept.phrase])
        return max((n for n in range(1, len(row) - 2) if tuple(row[1 : n + 1]) in self._begun), default=0)

    def positions(self, concept: Concept) -> list[list[int]] | None:
        """For each of the prompts about a concept where its LoRA acts; None for all positions.

        Args:
            concept: of the recipe.
        """
        if not self._alone:
            return None
        # A phrase may be split otherwise inside a sentence, so its last token is left to it whatever is shared.
        shared = self.shared(concept)
        return [
            [at for run in text.occurrences(self._model, s, concept.phrase) for at in run[min(shared, len(run) - 1) :]]
            for s in prompts.about(concept)
        ]
