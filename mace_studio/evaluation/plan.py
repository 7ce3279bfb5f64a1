"""What an evaluation asks: prompts, seeds and settings, known before any image is generated. No torch."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mace_studio import prompts
from mace_studio.errors import RecipeError
from mace_studio.methods import usual_guidance
from mace_studio.recipe import Recipe

ERASED, SYNONYM, KEPT = "erased", "synonym", "kept"  # the roles of a word
NEIGHBOUR = "neighbour"  # of a word that a recipe neither erases nor keeps, see `make_sample`
FIRST_SEED = 10_000  # far from those of training images and of searches
IMAGES = {"quick": 8, "full": 56}  # of each word, at least; multiples of a batch
CAPTIONS = {"quick": 48, "full": 256}
WORDS = {"quick": 24, "full": 10**6}  # at most of what is erased, of synonyms, and of what is kept


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One prompt and what a judge should see in its images, were nothing erased.

    Attributes:
        role: "erased", "synonym", "kept" or "neighbour".
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
        not_asked: labels of words that are not asked for, since there are many; a judge may still answer them.
    """

    probes: tuple[Probe, ...]
    captions: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    guidance: float
    not_asked: tuple[str, ...] = ()

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
        return tuple(dict.fromkeys((*(probe.label for probe in self.probes), *self.not_asked)))

    @property
    def mixed(self) -> bool:
        """Whether a kept word is asked for in the prompts of several kinds, to find the one that fits it best."""
        kept = {(probe.word, probe.kind) for probe in self.probes if probe.role == KEPT}
        return len(kept) > len({word for word, _ in kept})

    def parts(self, captions: int) -> list[Plan]:
        """Plans that are this one together: each has one word, in the order of a report, or so many captions."""
        words: dict[tuple[str, str], list[Probe]] = {}
        for probe in sorted(self.probes, key=lambda probe: (ERASED, SYNONYM, KEPT, NEIGHBOUR).index(probe.role)):
            words.setdefault((probe.role, probe.word), []).append(probe)
        starts = range(0, len(self.captions), captions)
        return [
            *(replace(self, probes=tuple(probes), captions=()) for probes in words.values()),
            *(replace(self, probes=(), captions=self.captions[start : start + captions]) for start in starts),
        ]

    def summary(self) -> str:
        """What is generated, in words."""
        most = "at most " if self.mixed else ""
        left_out = len(self.labels) - len({probe.label for probe in self.probes})
        others = f"{left_out:,} more words of the lists as answers only, " if left_out else ""
        return (
            f"{others}{len(self.probes)} prompts with {len(self.seeds)} seeds and {len(self.captions)} general "
            f"captions, before and after: {most}{self.images:,} images, {self.forwards:,} UNet forwards"
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
        size: "quick" (at least 8 images a word, and of longer lists 24 words, evenly taken) or "full" (at least 56 of
            every word).
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
    words = list(_words(recipe, kinds or {}))
    chosen: set[int] = set()
    for role in (ERASED, SYNONYM, KEPT):
        own = [i for i, word in enumerate(words) if word.role == role]
        taken = min(len(own), WORDS[size])
        chosen.update(own[i * len(own) // taken] for i in range(taken))
    return Plan(
        probes=tuple(probe for i in sorted(chosen) for probe in words[i].probes()),
        not_asked=tuple(word.label for i, word in enumerate(words) if i not in chosen),
        captions=tuple(captions[::stride][: CAPTIONS[size]]),
        seeds=tuple(range(first_seed, first_seed + -(-IMAGES[size] // forms))),
        steps=steps,
        guidance=usual_guidance(recipe),
    )


def make_sample(
    recipe: Recipe,
    *,
    neighbours: Sequence[str] = (),
    words: int = 0,
    pairs: int = 10,
    steps: int = 10,
    kinds: Mapping[str, str] | None = None,
    known: Collection[str] | None = None,
) -> Plan:
    """The plan of a look at a few images: of some words of each role, and of words that the recipe does not name.

    Args:
        recipe: of the erasure.
        neighbours: words that are neither erased nor kept.
        words: at most so many of what is erased, of the synonyms, and of what is kept.
        pairs: about so many images of each side in all, at most `IMAGES["quick"]` of a word.
        steps: denoising steps.
        kinds: as of `make_plan`.
        known: what the judge knows in lower case; words of which it does not know the label are left out. None: all.
    """
    own = kinds or {}
    first = recipe.concepts[0].kind
    erased = [(ERASED, c.phrase, c.phrase, c.kind) for c in recipe.concepts]
    synonyms = [(SYNONYM, word, c.phrase, c.kind) for c in recipe.concepts for word in c.synonyms]
    kept = [(KEPT, word, word, own.get(word.strip().lower(), first)) for word in recipe.kept]
    beside = [(NEIGHBOUR, word, word, own.get(word.strip().lower(), first)) for word in neighbours]
    rows = [
        [row for row in rows if known is None or row[2].strip().lower() in known] for rows in (erased, synonyms, kept)
    ]
    asked = [*(row for some in rows for row in some[:words]), *beside]
    probes = tuple(
        Probe(role=role, word=word, label=label, kind=kind, prompt=prompts.image_prompt(word, kind))
        for role, word, label, kind in asked
    )
    seeds = max(1, min(IMAGES["quick"], pairs // max(1, len(probes))))
    return Plan(
        probes=probes,
        captions=(),
        seeds=tuple(range(FIRST_SEED, FIRST_SEED + seeds)),
        steps=steps,
        guidance=usual_guidance(recipe),
    )


@dataclass(frozen=True)
class _Word:
    """A word of a recipe and the kinds in whose prompts it is asked for; the rest as of `Probe`."""

    role: str
    word: str
    label: str
    kinds: tuple[str, ...]

    def probes(self) -> Iterator[Probe]:
        for kind in self.kinds:
            for form in prompts.TESTS[kind]:
                yield Probe(role=self.role, word=self.word, label=self.label, kind=kind, prompt=form.format(self.word))


def _words(recipe: Recipe, kinds: Mapping[str, str]) -> Iterator[_Word]:
    for concept in recipe.concepts:
        for role, words in ((ERASED, (concept.phrase,)), (SYNONYM, concept.synonyms)):
            for word in words:
                yield _Word(role, word, concept.phrase, (concept.kind,))
    erased = tuple(dict.fromkeys(concept.kind for concept in recipe.concepts))
    for word in recipe.kept:
        own = kinds.get(word.strip().lower())
        yield _Word(KEPT, word, word, (own,) if own in erased else erased)


def with_one_guidance(plans: Sequence[tuple[str, Plan]]) -> list[Plan]:
    """Plans of erasures that are compared, with one guidance: the images before would not be the same otherwise.

    Args:
        plans: the name of an erasure's method, and its plan; MACE's guidance counts, or else the first one's.
    """
    own = [plan for method, plan in plans if method == "mace"]
    guidance = (own or [plans[0][1]])[0].guidance
    return [replace(plan, guidance=guidance) for _, plan in plans]
