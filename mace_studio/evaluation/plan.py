"""What an evaluation asks: prompts, seeds and settings, known before any image is generated. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mace_studio import prompts
from mace_studio.errors import RecipeError
from mace_studio.methods import usual_guidance
from mace_studio.recipe import Recipe

ERASED, SYNONYM, KEPT = "erased", "synonym", "kept"  # the roles of a word
FIRST_SEED = 10_000  # far from those of training images and of searches
IMAGES = {"quick": 8, "full": 56}  # of each word, at least; multiples of a batch
CAPTIONS = {"quick": 48, "full": 256}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One prompt and what a judge should see in its images, were nothing erased.

    Attributes:
        role: "erased", "synonym" or "kept".
        word: what the prompt names.
        label: the phrase that the judge is asked for: the word itself, or the concept whose synonym it is.
        kind: of concept that the prompt's form is for.
        prompt: the sentence.
    """

    role: str
    word: str
    label: str
    kind: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which images an evaluation generates.

    Attributes:
        probes: prompts about what is erased, its synonyms and what is kept. A kept word whose kind is not known has
            those of every kind that is erased; of the kinds that fit it less, only the original model's images are
            generated.
        captions: general prompts, for the quality of everything else; one image each.
        seeds: of the images of each probe, the same before and after.
        steps: denoising steps of every image.
        guidance: classifier-free guidance scale of every image.
    """

    probes: tuple[Probe, ...]
    captions: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float

    @property
    def images(self) -> int:
        """How many images are generated, before and after together; fewer where a kept word has several kinds."""
        return 2 * (len(self.probes) * len(self.seeds) + len(self.captions))

    @property
    def forwards(self) -> int:
        """UNet forwards of one sample, guidance counted twice."""
        return self.images * self.steps * (2 if self.guidance > 1 else 1)

    @property
    def labels(self) -> tuple[str, ...]:
        """What a judge chooses among, beside "none of these" where it has that answer."""
        return tuple(dict.fromkeys(probe.label for probe in self.probes))

    @property
    def mixed(self) -> bool:
        """Whether a kept word is asked for in the prompts of several kinds, to find the one that fits it best."""
        kept = {(probe.word, probe.kind) for probe in self.probes if probe.role == KEPT}
        return len(kept) > len({word for word, _ in kept})

    def words(self, role: str) -> dict[str, list[Probe]]:
        """The probes of each word of a role."""
        words: dict[str, list[Probe]] = {}
        for probe in self.probes:
            if probe.role == role:
                words.setdefault(probe.word, []).append(probe)
        return words

    def summary(self) -> str:
        """What is generated, in words."""
        most = "at most " if self.mixed else ""
        return (
            f"{len(self.probes)} prompts with {len(self.seeds)} seeds and {len(self.captions)} general captions, "
            f"before and after: {most}{self.images:,} images, {self.forwards:,} UNet forwards"
        )


def make_plan(
    recipe: Recipe,
    size: str,
    *,
    steps: int = 20,
    captions: Sequence[str] = (),
    first_seed: int = FIRST_SEED,
    kinds: Mapping[str, str] | None = None,
) -> Plan:
    """The plan of an evaluation.

    Args:
        recipe: its concepts, synonyms and preserve list are tested.
        size: "quick" (at least 8 images a word) or "full" (at least 56).
        steps: denoising steps.
        captions: general captions to take evenly from.
        first_seed: of the images of every prompt; the others count on from it.
        kinds: phrase in lower case -> kind, for kept phrases where several kinds are erased; see
            `presets.known_kinds`.

    Raises:
        RecipeError: no concept, or a size that is none of these.
    """
    recipe.check()
    if size not in IMAGES:
        raise RecipeError("plan", f"“{size}” is no plan; use one of {', '.join(IMAGES)}.")
    forms = min(len(prompts.TESTS[concept.kind]) for concept in recipe.concepts)
    stride = max(1, len(captions) // CAPTIONS[size])
    return Plan(
        probes=tuple(_probes(recipe, kinds or {})),
        captions=tuple(captions[::stride][: CAPTIONS[size]]),
        seeds=tuple(range(first_seed, first_seed + -(-IMAGES[size] // forms))),
        steps=steps,
        guidance=usual_guidance(recipe),
    )


def _probes(recipe: Recipe, kinds: Mapping[str, str]) -> Iterator[Probe]:
    for concept in recipe.concepts:
        for role, words in ((ERASED, (concept.phrase,)), (SYNONYM, concept.synonyms)):
            for word in words:
                yield from _forms(role, word, concept.phrase, concept.kind)
    erased = dict.fromkeys(concept.kind for concept in recipe.concepts)
    for word in recipe.preserve:
        own = kinds.get(word.strip().lower())
        for kind in [own] if own in erased else erased:
            yield from _forms(KEPT, word, word, kind)


def _forms(role: str, word: str, label: str, kind: str) -> Iterator[Probe]:
    for form in prompts.TESTS[kind]:
        yield Probe(role=role, word=word, label=label, kind=kind, prompt=form.format(word))
