"""The settings of every method but MACE, with published defaults; what the form shows of them. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from mace_studio.errors import RecipeError
from mace_studio.settings import KeepWeights, at_least, check_keep_weights, is_finite, number, one_of

TUNES = ("both", "key", "value")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a run of a method takes beside reading prompts, over all its concepts.

    Attributes:
        images: generated to train on; also those of which a part is generated, with as many `image_steps`.
        image_steps: denoising steps of each.
        guidance: of each.
        training_steps: forwards and backwards of one sample.
        side_by_side: how many things train in equal shares of these steps, each of them one sample in a step.
        at_once: how many of those go through one forward.
        captions: whether all general captions are read.
        sentences: that are read beside these; None for those of MACE, `prompts.count`.
        rank: of the LoRA that each of these things trains; 0 for none.
        kept_samples: that each of them keeps to train on again.
    """

    images: int = 0
    image_steps: int = 0
    guidance: float = 1.0
    training_steps: int = 0
    side_by_side: int = 1
    at_once: int = 1
    captions: bool = False
    sentences: int | None = None
    rank: int = 0
    kept_samples: int = 0


LARGEST = 1e12  # of what has no bound of its own: more leaves the numbers that weights are computed in


def option(default: Any, about: str, least: float | None = None, most: float | None = None, choices: tuple = ()) -> Any:
    """A setting with its explanation and its bounds, which `check` and the form read from the field's metadata.

    Args:
        default: the published value.
        about: what it does, as a phrase that the page can show.
        least: smallest number that is taken, or None.
        most: largest number that is taken, or None.
        choices: names of which one is taken; () for a number or a switch.
    """
    return field(default=default, metadata={"about": about, "least": least, "most": most, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """What the settings of all methods share."""

    def check(self) -> None:
        """Raise a RecipeError that names the first field at fault and the remedy."""
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, KeepWeights):
                check_keep_weights(part.name, value)
            elif isinstance(value, str):
                one_of(part.name, value, part.metadata["choices"])
            elif not isinstance(value, bool):
                _check_number(part.name, value, part.metadata["least"], part.metadata["most"])


def _check_number(name: str, value: float, least: float | None, most: float | None) -> None:
    if not is_finite(value):
        raise RecipeError(name, f"{number(value)} is not allowed; use a finite number.")
    at_least(name, value, -LARGEST if least is None else least)
    if value > (limit := LARGEST if most is None else most):
        raise RecipeError(name, f"{number(value)} is not allowed; use a number up to {limit:g}.")


@dataclass(frozen=True, kw_only=True)
class UceSettings(MethodSettings):
    """UCE; defaults are those of the authors' current code (arXiv 2308.14761)."""

    form: str = option(
        "subject",
        "One vector for each phrase, at its last token (current code), or all positions from there on (first code).",
        choices=("subject", "tail"),
    )
    technique: str = option(
        "replace",
        "Give the concept the anchor's output, or take from that what points in the concept's direction (first code).",
        choices=("replace", "tensor"),
    )
    anchor: str = option(
        "published",
        "What takes the concept's place: the published word for its kind, or the mapping of each concept.",
        choices=("published", "mapping"),
    )
    erase_scale: float = option(1.0, "Weight of the concepts.", least=0)
    preserve_scale: float = option(1.0, "Weight of the preserve list; the first code's form has its own rule.", least=0)
    ridge: float = option(0.5, "Weight of leaving the projections as they are.", least=0)
    expand: bool = option(False, "Add each concept within five short phrases, such as “photo of ...”.")


@dataclass(frozen=True, kw_only=True)
class ReceSettings(MethodSettings):
    """RECE; defaults are those of explicit content (arXiv 2407.12383). It starts from UCE in its first form."""

    rounds: int = option(3, "How often the embedding that revives the concept is derived and erased.", least=0, most=20)
    rho: float = option(0.1, "Weight that holds the derived embedding near 0.", least=1e-9)
    erase_scale: float = option(1.0, "Weight of the concepts in each round.", least=0)
    preserve_scale: float = option(0.1, "Weight of the empty prompt in each round.", least=0)
    ridge: float = option(0.1, "Weight of leaving the projections as they are, in each round.", least=0)
    start_ridge: float = option(0.5, "The same in the UCE edit before the first round.", least=0)


@dataclass(frozen=True, kw_only=True)
class SpeedSettings(MethodSettings):
    """SPEED; defaults are those of objects and styles (arXiv 2503.07392)."""

    tune: str = option("value", "Which projections change; published: values.", choices=TUNES)
    anchor: str = option(
        "published",
        "What takes the concept's place: the published word for its kind, or the mapping of each concept.",
        choices=("published", "mapping"),
    )
    tau: float = option(0.1, "Eigenvalues of what is kept below it count as free to change.", least=0)
    prior: float = option(1.0, "Weight of leaving the projections as they are.", least=1e-9)
    ridge: float = option(0.0, "0 holds start token and empty prompt exactly; more lets them move.", least=0)
    augmentations: int = option(
        10, "Vectors added around each kept one; 0 switches the filter off too.", least=0, most=100
    )
    filtered: bool = option(True, "Keep only the phrases that the erasure would move more than the mean.")


@dataclass(frozen=True, kw_only=True)
class OceSettings(MethodSettings):
    """OCE; defaults are those published for one object (arXiv 2605.28902)."""

    anchor: str = option(
        "published",
        "What takes the concept's place: the published word for its kind, or the mapping of each concept.",
        choices=("published", "mapping"),
    )
    erase_scale: float = option(2000.0, "Weight of the concepts.", least=0)
    general_scale: float = option(10.0, "Weight of the general captions.", least=0)
    keep_scale: float = option(0.0, "Weight of the preserve list.", least=0)
    ridge: float = option(10.0, "Weight of leaving the projections as they are.", least=0)


@dataclass(frozen=True, kw_only=True)
class DoubleProjectionSettings(MethodSettings):
    """DP; no number is published that a user must set (arXiv 2604.10032)."""

    directions: int = option(0, "Keep only so many of the strongest directions of the preserve list; 0: all.", least=0)


@dataclass(frozen=True, kw_only=True)
class TrainingFreeSettings(MethodSettings):
    """MACE's closed forms without images and LoRAs; ours. The weights are MACE's own."""

    refine: KeepWeights = field(default_factory=lambda: KeepWeights(general=1e-4, preserve=1.0))
    fuse: KeepWeights = field(default_factory=lambda: KeepWeights(general=1e-4, preserve=1.0))
    fusion: bool = option(True, "Solve the fusion with targets from the mapping; without, the refinement alone.")


@dataclass(frozen=True, kw_only=True)
class EsdSettings(MethodSettings):
    """ESD; defaults are those of the paper and the authors' first code (arXiv 2303.07345)."""

    select: str = option(
        "x",
        "x: cross-attention, for styles and names. x-strict: its keys and values. u: all but cross-attention, for "
        "objects and nudity. u-new: the same as the code since 2025 selects it.",
        choices=("x", "x-strict", "u", "u-new"),
    )
    form: str = option(
        "old",
        "Whether the target starts from the empty prompt (old) or from the concept (new).",
        choices=("old", "new"),
    )
    eta: float = option(
        1.0, "Strength of the negative guidance; 1 with the old form is 2 with the new, 0: do not train.", least=0
    )
    steps: int = option(1000, "Training steps, one image each, over all concepts.", least=0, most=100_000)
    learning_rate: float = option(1e-5, "Of Adam.", least=1e-12, most=1)
    guidance: float = option(3.0, "With which the model makes the noisy images that it trains on.", least=1)


@dataclass(frozen=True, kw_only=True)
class ConceptAblationSettings(MethodSettings):
    """AC, model-based, keys and values; defaults are those of the authors' code (arXiv 2303.13516).

    The authors take 200 sentences about the anchor with five images each; here its prompt templates are the
    sentences, with `images` images over all of them.
    """

    target: str = option(
        "model", "Learn the anchor's prediction, or the noise that was added.", choices=("model", "noise")
    )
    steps: int = option(100, "Training steps over all concepts.", least=0, most=100_000)
    batch: int = option(8, "Images in a step.", least=1, most=64)
    learning_rate: float = option(1.6e-5, "Of AdamW; the authors' 2e-6 times 8 images.", least=1e-12, most=1)
    images: int = option(40, "Images of each anchor (published: 1,000).", least=1, most=2000)
    prior_weight: float = option(
        0.0, "Holds the anchor that shares a word with the concept: 0.2, or 1; for “model”.", least=0
    )
    form: str = option("compvis", "How that is averaged in the authors' two codes.", choices=("compvis", "diffusers"))
    clip: float = option(0.0, "Largest norm of the gradients; 0: no limit (diffusers: 1).", least=0)
    image_steps: int = option(15, "Denoising steps of the anchor's images.", least=1, most=999)
    image_guidance: float = option(6.0, "Guidance of the anchor's images.", least=1)


@dataclass(frozen=True, kw_only=True)
class ForgetMeNotSettings(MethodSettings):
    """FMN; defaults are those of the authors' code; steps are tuned for each concept (arXiv 2303.17591)."""

    steps: int = option(35, "Training steps for each concept, one image each.", least=0, most=100_000)
    learning_rate: float = option(2e-6, "Of AdamW.", least=1e-12, most=1)
    images: int = option(8, "Images of each concept.", least=1, most=200)
    closing: bool = option(True, "Press the attention of end tokens down too.")
    attention_only: bool = option(False, "Train cross-attention alone, with clipped gradients; else the whole UNet.")
    real_images: bool = option(True, "Train on noised images of the concept; without, on noise alone.")
    inversion_steps: int = option(
        0, "Learn new tokens for the concept first, by textual inversion (published: 500); 0: do not.", least=0,
        most=20_000,
    )  # fmt: skip
    inversion_tokens: int = option(4, "How many tokens that learns.", least=1, most=16)
    inversion_rate: float = option(1e-3, "Learning rate of that.", least=1e-12, most=1)
    image_steps: int = option(15, "Denoising steps of the concept's images.", least=1, most=999)
    image_guidance: float = option(7.5, "Guidance of the concept's images.", least=1)


@dataclass(frozen=True, kw_only=True)
class SelectiveAmnesiaSettings(MethodSettings):
    """SA in a reduced form, which fits a small machine; the published number stands in brackets (arXiv 2305.10120)."""

    select: str = option(
        "all", "all: the whole UNet, for people. u: all but cross-attention, for nudity.", choices=("all", "u")
    )
    steps: int = option(400, "Training steps (200 times 1,000 images).", least=0, most=1_000_000)
    learning_rate: float = option(1e-5, "Of Adam, for each image of a batch.", least=1e-12, most=1)
    surrogates: int = option(8, "Images of the mapping for each concept (1,000).", least=1, most=2000)
    replay: int = option(40, "Images of general captions that are held (5,000).", least=1, most=10_000)
    stride: int = option(100, "Every so many timesteps enter the Fisher information (1).", least=1, most=1000)
    replay_weight: float = option(1.0, "Weight of the held images' own loss.", least=0)
    fisher_weight: float = option(50.0, "Weight of the Fisher information.", least=0)
    image_steps: int = option(15, "Denoising steps of the images.", least=1, most=999)
    image_guidance: float = option(7.5, "Guidance of the images.", least=1)


@dataclass(frozen=True, kw_only=True)
class SldSettings(MethodSettings):
    """SLD; defaults are the published configuration Medium; `PUBLISHED` has all four (arXiv 2211.05105)."""

    warmup: int = option(10, "Denoising steps before it acts.", least=0, most=999)
    safety_scale: float = option(1000.0, "Strength; below 1 switches it off.", least=0)
    threshold: float = option(0.01, "How near a prediction must come to the concept's to be guided.")
    momentum_scale: float = option(0.3, "Weight of the momentum.", least=0)
    momentum_beta: float = option(0.4, "How much of the momentum stays from step to step.", least=0, most=1)
    guidance: float = option(7.5, "Classifier-free guidance of its images, in place of the one asked for.", least=1)


@dataclass(frozen=True, kw_only=True)
class AdaVdSettings(MethodSettings):
    """AdaVD; defaults are those of the authors' code (arXiv 2412.06143)."""

    token_sim: bool = option(True, "Weigh by how much a token resembles the concept; without, project all alike.")
    scale: float = option(2.0, "Largest weight.", least=0)
    steepness: float = option(100.0, "How sharply the weight rises.", least=0)
    threshold: float = option(0.93, "Cosine at which it is half of the largest.", least=-1, most=1)
    jointly: bool = option(False, "Compare both halves of the guidance together, as the authors' code does.")


# Published settings by kind of concept, or by the name of a configuration, where there are several.
PUBLISHED: dict[str, dict[str, MethodSettings]] = {
    "rece": {
        "explicit": ReceSettings(),
        "unsafe": ReceSettings(rounds=2),
        "style": ReceSettings(rounds=1, rho=1e-3),
        "object": ReceSettings(rounds=1),
        "hard object": ReceSettings(rounds=1, rho=1e-3),  # objects that UCE leaves visible
    },
    "speed": {
        "object": SpeedSettings(),
        "style": SpeedSettings(),
        "celebrity": SpeedSettings(prior=0.05, tau=1e-4, filtered=False),
        "explicit": SpeedSettings(prior=0.7, ridge=0.5),
    },
    "oce": {
        "object": OceSettings(),
        "celebrity, 10": OceSettings(erase_scale=3500.0, general_scale=50.0, keep_scale=5.0),
        "celebrity, 100": OceSettings(erase_scale=800.0, general_scale=70.0, keep_scale=2.0),
        "explicit": OceSettings(erase_scale=3000.0, general_scale=20.0),
        "style": OceSettings(erase_scale=500.0, general_scale=10.0, keep_scale=1.0),
    },
    "esd": {
        "object": EsdSettings(select="u"),
        "explicit": EsdSettings(select="u"),
        "style": EsdSettings(),
        "celebrity": EsdSettings(),
        "code since 2025": EsdSettings(form="new", eta=2.0, steps=200, learning_rate=5e-5),
    },
    "sld": {
        "weak": SldSettings(warmup=15, safety_scale=200.0, threshold=0.0, momentum_scale=0.0, momentum_beta=0.0),
        "medium": SldSettings(),
        "strong": SldSettings(warmup=7, safety_scale=2000.0, threshold=0.025, momentum_scale=0.5, momentum_beta=0.7),
        "max": SldSettings(warmup=0, safety_scale=5000.0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7),
    },
}
