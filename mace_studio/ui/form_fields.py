"""The controls of the recipe's form: what every method has, and the settings of each method.

Those of MACE are laid out by hand; those of every other method of `METHODS` follow from its settings' fields and their
metadata, see `generated`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, fields, is_dataclass
from typing import Any, get_type_hints

from mace_studio.methods import METHODS, Method
from mace_studio.methods.mace import FUSIONS, MASKS
from mace_studio.settings import TUNE
from mace_studio.ui.components.charts import timestep_chart


@dataclass(frozen=True)
class Span:
    """Where a slider begins and ends.

    Attributes:
        low, high: its ends; exponents of ten when `log`.
        step: between two places.
        log: the slider moves in powers of ten.
        off: its left end is 0.
    """

    low: float
    high: float
    step: float
    _: KW_ONLY
    log: bool = True
    off: bool = False


WEIGHT = Span(-8, 4, 0.1, off=True)


@dataclass(frozen=True, kw_only=True)
class Field:
    """One control of the form.

    Attributes:
        key: its name here, unique; with hyphens it is the control's elem_id.
        label: what the user calls it.
        path: the recipe field that it shows, dotted; for a setting of a method within its settings.
        hint: a few words below it.
        kind: "decimal" or "whole" number, "text", "choice" or "flag". Numbers are typed as text, so that 1e-7, 0 and a
            seed of twenty digits reach the recipe as they were written.
        span: of its slider; None for a number without one.
        choices: of a "choice".
        same_as: key of the field whose value counts while this one is blank.
    """

    key: str
    label: str
    path: str
    hint: str = ""
    kind: str = "text"
    span: Span | None = None
    choices: tuple[str, ...] = ()
    same_as: str = ""

    @property
    def elem_id(self) -> str:
        return self.key.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Group:
    """Fields that stand side by side.

    Attributes:
        elem_id: of their row.
        fields: in this order.
        columns: how many stand in a line; 1 for flags.
        advanced: folded away at first.
        chart: (values of `chart_fields`) -> a chart as HTML, or None while a value is being typed.
        chart_fields: keys of the fields that the chart below this group shows.
    """

    elem_id: str
    fields: tuple[Field, ...]
    columns: int = 2
    advanced: bool = False
    chart: Callable[..., str | None] | None = None
    chart_fields: tuple[str, ...] = ()


COMMON = (
    Field(key="concepts", label="Concepts", path="concepts"),
    Field(key="preserve", label="Keep unchanged", path="preserve"),
    Field(key="method", label="Method", path="method", kind="choice"),
    Field(key="seed", label="Seed", path="seed", hint="Of images, noise, timesteps", kind="whole"),
    Field(key="name", label="Name", path="name", hint="What to call the result; made of the concepts when blank"),
    # Not a text: with it the form keeps name and phrases of the recipe that filled it, see `form.name_from`.
    Field(key="about", label="About", path="about"),
)

MACE = (
    Group(
        elem_id="weights",
        fields=(
            Field(
                key="lambda1", label="λ1", path="refine.general", kind="decimal", span=WEIGHT,
                hint="How much everyday scenes must stay, in Refine",
            ),
            Field(
                key="lambda2", label="λ2", path="fuse.general", kind="decimal", span=WEIGHT,
                hint="How much everyday scenes must stay, in Fuse",
            ),
            Field(
                key="lambda3", label="λ3", path="refine.preserve", kind="decimal", span=WEIGHT,
                hint="How much your keep list must stay, in both",
            ),
            Field(
                key="identity", label="Identity weight", path="refine.identity", kind="decimal", span=WEIGHT,
                hint="How much everything else must stay, in both",
            ),
        ),
    ),
    Group(
        elem_id="window",
        columns=3,
        fields=(
            Field(
                key="t1", label="t₁", path="lora.t1", kind="decimal", span=Span(0, 999, 1, log=False),
                hint="Focus begins",
            ),
            Field(
                key="t2", label="t₂", path="lora.t2", kind="decimal", span=Span(0, 999, 1, log=False),
                hint="Focus ends",
            ),
            Field(
                key="gamma", label="γ", path="lora.gamma", kind="decimal", span=Span(-3, 0, 0.05), hint="Steepness"
            ),
        ),
        chart=timestep_chart,
        chart_fields=("t1", "t2", "gamma", "uniform"),
    ),
    Group(
        elem_id="lora",
        fields=(
            Field(
                key="lora_steps", label="LoRA steps", path="lora.steps", kind="whole",
                hint="Per concept; 0 leaves it out",
            ),
            Field(
                key="learning_rate", label="Learning rate", path="lora.learning_rate", kind="decimal",
                hint="Of AdamW, such as 1e-4",
            ),
            Field(key="rank", label="Rank", path="lora.rank", kind="whole", hint="Of each LoRA, usually 1"),
            Field(
                key="alpha", label="Alpha", path="lora.alpha", kind="decimal", hint="Scales it by alpha / rank"
            ),
        ),
    ),
    Group(
        elem_id="advanced-grid",
        advanced=True,
        fields=(
            Field(
                key="lambda3_fuse", label="λ3 in the fusion", path="fuse.preserve", kind="decimal",
                hint="How much your keep list must stay, in Fuse; blank: as in Refine", same_as="lambda3",
            ),
            Field(
                key="identity_fuse", label="Identity weight in the fusion", path="fuse.identity", kind="decimal",
                hint="How much everything else must stay, in Fuse; blank: as in Refine", same_as="identity",
            ),
            Field(
                key="tune", label="LoRA trains", path="lora.tune", kind="choice", choices=TUNE,
                hint="Key and value projections",
            ),
            Field(
                key="fusion", label="Fusion", path="fusion", kind="choice", choices=FUSIONS,
                hint="Weighted sum: the ablation",
            ),
            Field(
                key="masks", label="Masks", path="masks", kind="choice", choices=MASKS,
                hint="Not for styles and explicit",
            ),
            Field(
                key="flat", label="Stop when flat", path="lora.flat", kind="decimal",
                hint="Gain in 10 steps, such as 0.01; 0 never",
            ),
            Field(
                key="kept_samples", label="Kept samples", path="lora.kept_samples", kind="whole",
                hint="With LoRA trains key: no UNet; 0 none",
            ),
            Field(
                key="concepts_at_once", label="Concepts at once", path="concepts_at_once", kind="whole",
                hint="Memory and speed only",
            ),
            Field(
                key="image_count", label="Images per concept", path="images.per_concept", kind="whole",
                hint="For training, generated first",
            ),
            Field(
                key="image_steps", label="Image steps", path="images.steps", kind="whole",
                hint="Denoising steps of each",
            ),
            Field(
                key="image_guidance", label="Image guidance", path="images.guidance", kind="decimal",
                hint="Of each; 1 is none",
            ),
        ),
    ),
    Group(
        elem_id="advanced-flags",
        advanced=True,
        columns=1,
        fields=(
            Field(
                key="path", label="Train on the way", path="images.path", kind="flag",
                hint="on noisy latents between t₁ and t₂; images are not finished",
            ),
            Field(
                key="pad_tokens", label="End and padding tokens", path="lora.pad_tokens", kind="flag",
                hint="also press down what they carry",
            ),
            Field(
                key="squared", label="Squared loss", path="lora.squared", kind="flag",
                hint="of squared norms, as Eq. 3 is printed",
            ),
            Field(
                key="own_tokens", label="Own tokens alone", path="lora.own_tokens", kind="flag",
                hint="keeps more of people with shared names",
            ),
            Field(
                key="uniform", label="Uniform timesteps", path="lora.uniform", kind="flag",
                hint="all equally often (ablation)",
            ),
        ),
    ),
)  # fmt: skip

# Keys of the decimals that the strength dial of the Simple view turns, and by which power of ten at each of its steps:
# weights of what must stay fall and the learning rate rises as it erases more.
STRENGTH: dict[str, dict[str, float]] = {
    "mace": {"lambda1": -0.5, "lambda2": -0.5, "lambda3": -0.5, "identity": -0.5, "learning_rate": 0.15}
}

KINDS: dict[type, str] = {bool: "flag", int: "whole", float: "decimal", str: "text"}
# What a part of `settings.KeepWeights` weighs; its fields have no metadata.
KEPT = {
    "general": "How much everyday scenes must stay",
    "preserve": "How much your keep list must stay",
    "identity": "How much everything else must stay",
}
READ = {
    "mapping": "what each concept maps to", "preserve": "your keep list", "captions": "the general captions",
    "images": "training images",
}  # fmt: skip


def generated(name: str, settings: type[Any]) -> tuple[Group, ...]:
    """The controls of a method by its settings: numbers, texts and choices in a grid, flags below them.

    Args:
        name: of the method.
        settings: a dataclass whose fields are numbers, texts, flags or such dataclasses again. Their metadata may have
            "about", the explanation, and "choices", as `methods.settings.option` writes it.

    Raises:
        TypeError: a field is of another type.
    """
    made = list(_fields(name, settings))
    plain, flags = [f for f in made if f.kind != "flag"], [f for f in made if f.kind == "flag"]
    rows = ((plain, f"{name}-grid", 2), (flags, f"{name}-flags", 1))
    return tuple(Group(elem_id=elem_id, fields=tuple(row), columns=columns) for row, elem_id, columns in rows if row)


def _fields(name: str, settings: type[Any], path: str = "", label: str = "") -> Iterator[Field]:
    hints = get_type_hints(settings)
    for part in fields(settings):
        own, called = f"{path}{part.name}", f"{label}{part.name.replace('_', ' ')}"
        kind, hint = hints[part.name], part.metadata.get("about", KEPT.get(part.name, ""))
        if isinstance(kind, type) and is_dataclass(kind):
            yield from _fields(name, kind, f"{own}.", f"{called}: ")
            continue
        if kind not in KINDS:
            raise TypeError(f"the setting {own} of {name} is {kind}; the form shows numbers, texts and flags")
        choices = tuple(part.metadata.get("choices", ()))
        yield Field(
            key=f"{name}_{own}".replace("-", "_").replace(".", "_"),
            label=called[0].upper() + called[1:],
            path=own,
            hint=hint,
            kind="choice" if choices else KINDS[kind],
            choices=choices,
        )


def told(method: Method) -> str:
    """What a method does, and what of the form it reads beside the concepts."""
    names = [READ[part] for part in method.reads]
    listed = " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
    kept = "" if "preserve" in method.reads else " It cannot use your keep list."
    return f"{method.about} It reads {listed or 'the concepts alone'}.{kept}"


METHOD_GROUPS: dict[str, tuple[Group, ...]] = {
    name: MACE if name == "mace" else generated(name, method.settings) for name, method in METHODS.items()
}


def method_fields(method: str) -> list[Field]:
    """The fields of a method's own settings."""
    return [field for group in METHOD_GROUPS.get(method, ()) for field in group.fields]


FIELDS: tuple[Field, ...] = (*COMMON, *(field for method in METHOD_GROUPS for field in method_fields(method)))
BY_KEY: dict[str, Field] = {field.key: field for field in FIELDS}


def value_at(owner: Any, field: Field) -> Any:
    """The value of a field in a recipe or in a method's settings."""
    for part in field.path.split("."):
        owner = getattr(owner, part)
    return owner
