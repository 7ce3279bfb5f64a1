"""How well the model generates what it is asked for, in the eyes of the judge, and how well the judge sees."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from diffusers import AutoencoderKL, StableDiffusionPipeline
from PIL import Image

from mace_studio.miniature import autoencoder, diffusion, pictures, world
from mace_studio.miniature.judge import NONE, Judge
from mace_studio.miniature.vocabulary import OBJECTS, THINGS

Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Row:
    """Top-1 accuracy of one group: how many images the judge gave the answer that was asked for."""

    group: str
    correct: int
    count: int

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the accuracy."""
        return wilson(self.correct, self.count)


@dataclass(frozen=True)
class Group:
    """What a row is about: the forms of the prompts, the head that answers, and each word with its right answer."""

    name: str
    forms: tuple[str, ...]
    head: str
    answers: Mapping[str, str]


THING, PORTRAIT = ("a photo of the {}",), ("a portrait of {}",)
PEOPLE_FORMS = (*PORTRAIT, world.SKETCH_FORM, world.OIL_FORM, world.OFFICIAL_FORM, world.CROWD_FORM)
ARTIST_FORMS = world.ART_FORMS[:5]


def groups(judge: Judge) -> tuple[Group, ...]:
    """What is asked for: everything that the judge knows."""
    things, artists, scenes = (names[:-1] for names in (judge.answers[head] for head in ("thing", "artist", "scene")))
    people = {name: name for name in things if name not in THINGS}
    return (
        Group("objects", THING, "thing", {name: name for name in OBJECTS}),
        Group("synonyms", THING, "thing", {word: name for name, words in OBJECTS.items() for word in words}),
        Group("other things", THING, "thing", {name: name for name in THINGS if name not in OBJECTS}),
        Group("people, portraits", PORTRAIT, "thing", people),
        Group("people, all five forms", PEOPLE_FORMS, "thing", people),
        Group("artists, all five forms", ARTIST_FORMS, "artist", {name: name for name in artists}),
        Group("scenes", THING, "scene", {name: name for name in scenes}),
    )


def generated(
    whole: StableDiffusionPipeline,
    judge: Judge,
    images: int,
    seed: int,
    asked: Sequence[Group] | None = None,
    steps: int = 20,
) -> Iterator[Row]:
    """One row for each group of words.

    Args:
        whole: the model.
        judge: answers among all things and people, all artists, or all scenes, and "none of these".
        images: for each word, shared out among the forms.
        seed: of the first image; the others count on from it.
        asked: the groups; all that the judge knows where they are left out.
        steps: denoising steps.
    """
    for group in groups(judge) if asked is None else asked:
        words = [word for word in group.answers for _ in range(images)]
        forms = [group.forms[i % len(group.forms)] for i in range(len(words))]
        prompts = [form.format(word) for form, word in zip(forms, words, strict=True)]
        made = diffusion.generate(whole, prompts, seed, steps)
        yield _row(group.name, judge, group.head, made, [group.answers[word] for word in words])


def composed(judge: Judge, number: int, vae: AutoencoderKL | None = None) -> Iterator[Row]:
    """One row for each head of the judge, on held-out composed images; pairs of things are left out.

    Args:
        judge: names what they show.
        number: of images.
        vae: shows the images as they come out of this autoencoder; None: as they were composed.
    """
    samples = [s for s in world.samples(number, world.HELD_OUT + 1) if len(s.concepts) < 2]
    images, title = [Image.fromarray(sample.image_HWC) for sample in samples], "composed"
    if vae is not None:
        title = "composed, through the autoencoder"
        parts = pictures.to_tensor([sample.image_HWC for sample in samples]).split(64)
        images = [image for part in parts for image in pictures.to_images(autoencoder.reconstructed(vae, part))]
    shown: dict[str, list[str | None]] = {
        "thing": [s.concepts[0] if s.concepts else NONE for s in samples],
        "artist": [s.artist for s in samples],
        "scene": [s.scene for s in samples],
    }
    for head, names in shown.items():
        right = [name if name in judge.answers[head] else NONE for name in names]
        yield _row(f"{title}: {head}", judge, head, images, right)


def wilson(correct: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `correct` in `count`.

    Raises:
        ValueError: nothing was counted, or more were correct than counted.

    Source: Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927.
    """
    if not 0 <= correct <= count or count == 0:
        raise ValueError(f"{correct} correct of {count} make no share")
    share, z2 = correct / count, Z * Z / count
    middle = (share + z2 / 2) / (1 + z2)
    half = Z / (1 + z2) * math.sqrt(share * (1 - share) / count + z2 / count / 4)
    return max(0.0, middle - half), min(1.0, middle + half)


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown."""
    lines = ["| group | top-1 | 95 % interval | correct | images |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        low, high = row.interval
        share = row.correct / row.count
        lines.append(f"| {row.group} | {share:.1%} | {low:.1%} to {high:.1%} | {row.correct} | {row.count} |")
    return "\n".join(lines)


def _row(group: str, judge: Judge, head: str, pictures: Sequence[Image.Image], right: Sequence[str]) -> Row:
    said = judge.names(pictures, head)
    return Row(group, sum(a == b for a, b in zip(said, right, strict=True)), len(right))
