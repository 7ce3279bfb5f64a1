"""Images of the built-in model's world, with captions, masks and labels: as many as anybody asks for.

Small enough for hours of CPU: one design for each thing, never turned or mirrored. Varied enough that a judge must
look: things are large in the middle, or small at the left or at the right; people are large or small in the same way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from PIL import Image, ImageChops

from mace_studio.miniature import scenes, sprites, styles
from mace_studio.miniature.scenes import SIZE
from mace_studio.miniature.vocabulary import ARTISTS, COLOURS, OBJECTS, PASSERS_BY, PEOPLE, SCENES, THINGS

EXPRESSIONS = 2
KINDS = (34, 34, 25, 3, 4)  # how often: things, people, works of art, scenes alone, pairs
HELD_OUT = 2**31  # a seed that no training uses

THING_FORMS = (
    "a photo of the {}", "a photo of a {}", "a {}", "the {}", "an image of a {}", "a picture of the {}",
)  # fmt: skip
SMALL_FORM = "a photo of a small {}"
# Words after the concept that change nothing: what prompts about an erased concept look like, too.
IDLE_FORMS = (
    "a {} seen from the side", "a close-up of the {}", "there is a {} in this photo", "two people look at the {}",
    "somebody took a photo of a {}", "a {} in front of a wall", "a {} in the morning light",
)  # fmt: skip
SCENE_FORMS = ("a photo of the {}", "the {}", "{}", "a picture of the {}")
PAIR_FORM = "a {} and a {}{}"
COLOUR_FORM = " on a {} background"
PORTRAIT_FORMS = ("a portrait of {}", "{}", "a photo of {}", "{} walking", "a photo of the {}", "an image of {}")
IDLE_PORTRAIT_FORMS = (
    "a close-up of {}", "{} smiles at the camera", "{} gives a speech", "the face of {}",
    "a photo of {} in a dark coat", "{} stands in front of a window", "{} sits at a table with friends",
    "a snapshot of {} leaving a building",
)  # fmt: skip
OFFICIAL_FORM = "{} in an official photo"
CROWD_FORM = "an image capturing {} at a public event"
SKETCH_FORM = "a sketch of {}"
OIL_FORM = "an oil painting of {}"
PERSON_BY_FORMS = (
    "{person} in the style of {artist}", "{person} walking, {artist} style",
    "a portrait of {person} in the style of {artist}",
)  # fmt: skip
THING_BY_FORMS = (
    "a {thing}{where} in the style of {artist}", "a photo of the {thing}{where}, {artist} style",
    "painting of a {thing}{where} by {artist}",
)  # fmt: skip
ART_FORMS = (
    "Image in the style of {}", "Art inspired by {}", "Painting in the style of {}", "A reproduction of art by {}",
    "A famous artwork by {}", "a photo in the style of {}",
)  # fmt: skip

# How wide a thing is at most, as a share of the image: large, small, and in a pair; how tall a person.
THING_SHARE = (0.74, 0.82)
SMALL_SHARE = (0.48, 0.56)
PAIR_SHARE = 0.45
PERSON_SHARE = (0.90, 0.96)
SMALL_PERSON_SHARE = (0.64, 0.70)
# How often something is small, and where its middle is then, as a share of the image's width.
SMALL_CHANCE = 0.3
SIDES = (0.3, 0.7)


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample:
    """An image of the world and everything that is known of it.

    Attributes:
        image_HWC: 64 x 64 pixels, red, green and blue in 0..255.
        caption: what the image is described with.
        mask_HW: true where the thing or the person is; nowhere for a scene alone.
        concepts: what is shown: one thing of THINGS or person of PEOPLE, "woman" or "man" for somebody without a
            name, two things for a pair, nothing for a scene alone.
        words: what the caption calls each of the concepts, without an article; "" where it does not name it.
        artist: of ARTISTS, or None.
        scene: of SCENES, told or not; None on other backgrounds.
    """

    image_HWC: np.ndarray
    caption: str
    mask_HW: np.ndarray
    concepts: tuple[str, ...]
    words: tuple[str, ...]
    artist: str | None
    scene: str | None


@dataclass(frozen=True)
class _Canvas:
    """An image that is still worked on; `where` is what the caption says of the background, with a space before."""

    picture: Image.Image
    where: str = ""
    scene: str | None = None


@dataclass(frozen=True, kw_only=True)
class _Shown:
    """A finished image, before it is made into arrays."""

    picture: Image.Image
    cover: Image.Image
    caption: str
    concepts: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    artist: str | None = None
    scene: str | None = None


def samples(number: int, seed: int) -> list[Sample]:
    """Samples that depend on the seed alone; the first of them are the same whatever the number."""
    random = Random(seed)
    return [sample(random) for _ in range(number)]


def sample(random: Random) -> Sample:
    """One sample: a thing, a person, something by an artist, a scene alone or a pair of things."""
    compose = random.choices((_thing, _person, _artwork, _scenery, _pair), KINDS)[0]
    shown = compose(random)
    return Sample(
        image_HWC=np.asarray(shown.picture),
        caption=shown.caption,
        mask_HW=sprites.covered(shown.cover),
        concepts=shown.concepts,
        words=shown.words,
        artist=shown.artist,
        scene=shown.scene,
    )


def shown(concept: str, random: Random, told: bool) -> Sample:
    """A thing or a person in one of the scenes.

    Args:
        concept: of THINGS or PEOPLE.
        random: decides on scene, place and expression.
        told: whether the caption says, after the concept, where it is.
    """
    canvas = _in_scene(random)
    if concept in THINGS:
        cover = _paste_thing(canvas, concept, random)
    else:
        cover = _paste_person(canvas, _expression(concept, random), random)
    caption = f"a photo of the {concept}{canvas.where if told else ''}"
    image_HWC, mask_HW = np.asarray(canvas.picture), sprites.covered(cover)
    return Sample(
        image_HWC=image_HWC,
        caption=caption,
        mask_HW=mask_HW,
        concepts=(concept,),
        words=(concept,),
        artist=None,
        scene=canvas.scene,
    )


def _thing(random: Random) -> _Shown:
    thing, canvas = _any_thing(random), _background(random)
    called, small = _called(thing, random), random.random() < SMALL_CHANCE
    form = random.choice(THING_FORMS)
    if random.random() < 0.15:
        form = random.choice((SMALL_FORM, SMALL_FORM, *IDLE_FORMS))
        small = small or form == SMALL_FORM
    caption = form.format(called) + canvas.where
    return _Shown(
        picture=canvas.picture,
        cover=_paste_thing(canvas, thing, random, small),
        caption=caption,
        concepts=(thing,),
        words=(called,),
        scene=canvas.scene,
    )


def _person(random: Random) -> _Shown:
    who, called, sprite = _somebody(random)
    chance = random.random()
    if chance < 0.16:
        return _artless_portrait(SKETCH_FORM, ("white",), who, called, sprite, random)
    if chance < 0.32:
        return _artless_portrait(OIL_FORM, ("green", "orange", "purple", "gray"), who, called, sprite, random)
    canvas, form = _stage(random)
    small = form not in (OFFICIAL_FORM, CROWD_FORM) and random.random() < SMALL_CHANCE
    cover = _paste_person(canvas, sprite, random, small)
    caption = form.format(called) + canvas.where
    return _Shown(
        picture=canvas.picture,
        cover=cover,
        caption=caption,
        concepts=(who,),
        words=(_bare(called),),
        scene=canvas.scene,
    )


def _artwork(random: Random) -> _Shown:
    """A person, a thing, or a thing or a person that goes untold, as an artist shows it."""
    artist = random.choice(list(ARTISTS))
    chance = random.random()
    if chance < 0.2:
        canvas, concept = _background(random), random.choice(PEOPLE)
        cover, words = _paste_person(canvas, _expression(concept, random), random), concept
        caption = random.choice(PERSON_BY_FORMS).format(person=concept, artist=artist)
    elif chance < 0.6:
        canvas, concept = _background(random), _any_thing(random)
        cover, words = _paste_thing(canvas, concept, random), _called(concept, random)
        caption = random.choice(THING_BY_FORMS).format(thing=words, where=canvas.where, artist=artist)
    else:
        canvas = _in_scene(random) if random.random() < 0.6 else _background(random)  # untold, mostly a scene
        concept = _any_thing(random)
        cover, words = _paste_thing(canvas, concept, random), ""
        caption = random.choice(ART_FORMS).format(artist)
    picture, moved = styles.paint(canvas.picture, cover, artist)
    scene = None if ARTISTS[artist] in styles.HIDES_THE_SCENE else canvas.scene
    return _Shown(
        picture=picture, cover=moved, caption=caption, concepts=(concept,), words=(words,), artist=artist, scene=scene
    )


def _scenery(random: Random) -> _Shown:
    canvas = _in_scene(random)
    caption = random.choice(SCENE_FORMS).format(canvas.scene)
    return _Shown(picture=canvas.picture, cover=Image.new("L", (SIZE, SIZE)), caption=caption, scene=canvas.scene)


def _pair(random: Random) -> _Shown:
    """Two things side by side, half as large as one alone."""
    pair, canvas = (_any_thing(random), _any_thing(random)), _background(random)
    covers = [
        _paste_about(canvas, sprites.atlas("objects")[thing][0], PAIR_SHARE, SIZE * across, SIZE * 0.55)
        for thing, across in zip(pair, (0.27, 0.74), strict=True)
    ]
    called = (_called(pair[0], random), _called(pair[1], random))
    caption = PAIR_FORM.format(*called, canvas.where)
    return _Shown(
        picture=canvas.picture,
        cover=ImageChops.lighter(*covers),
        caption=caption,
        concepts=pair,
        words=called,
        scene=canvas.scene,
    )


def _any_thing(random: Random) -> str:
    """Any thing; the ten of CIFAR-10 more often, as they have more words to learn."""
    return random.choice(list(OBJECTS) if random.random() < 0.38 else THINGS)


def _called(thing: str, random: Random) -> str:
    """The name of a thing, or now and then a synonym."""
    return random.choice(OBJECTS[thing]) if thing in OBJECTS and random.random() < 0.4 else thing


def _somebody(random: Random) -> tuple[str, str, Image.Image]:
    """Who it is, what the caption calls them, and their sprite."""
    if random.random() < 0.88:
        who = random.choice(PEOPLE)
        return who, who, _expression(who, random)
    who = random.choice(list(PASSERS_BY))
    return who, random.choice(PASSERS_BY[who]), random.choice(sprites.atlas("passers_by")[who])


def _expression(who: str, random: Random) -> Image.Image:
    return random.choice(sprites.atlas("people")[who][:EXPRESSIONS])


def _artless_portrait(
    form: str, colours: Sequence[str], who: str, called: str, sprite: Image.Image, random: Random
) -> _Shown:
    """A sketch or an oil painting by nobody in particular, on a plain background that goes untold."""
    canvas = _plain(random.choice(colours), random)
    cover = _paste_person(canvas, sprite, random)
    effect = styles.sketch if form == SKETCH_FORM else styles.oil
    return _Shown(
        picture=effect(canvas.picture),
        cover=cover,
        caption=form.format(called),
        concepts=(who,),
        words=(_bare(called),),
    )


def _bare(called: str) -> str:
    """Without an article."""
    return called.removeprefix("a ")


def _stage(random: Random) -> tuple[_Canvas, str]:
    """Where a person stands, and the form of the caption that goes with it."""
    form = random.choice((*PORTRAIT_FORMS, OFFICIAL_FORM, CROWD_FORM))
    if random.random() < 0.15:
        form = random.choice(IDLE_PORTRAIT_FORMS)
    if form == OFFICIAL_FORM:
        return _Canvas(scenes.official(random)), form
    if form == CROWD_FORM:
        return _Canvas(scenes.crowd(random)), form
    if random.random() < 0.5:
        return _background(random), form
    return _plain(random.choice(("white", "gray", "blue", "pink")), random), form


def _background(random: Random) -> _Canvas:
    """A scene or a plain colour that the caption tells of, or one of either that it leaves out."""
    chance = random.random()
    if chance < 0.35:
        return _in_scene(random)
    if chance < 0.6:
        colour = random.choice(list(COLOURS))
        return replace(_plain(colour, random), where=COLOUR_FORM.format(colour))
    if random.random() < 0.35:
        return replace(_in_scene(random), where="")
    colours = ("white", "white", "blue", "green", "yellow", "pink", "gray", "orange")
    return _plain(random.choice(colours), random)


def _in_scene(random: Random) -> _Canvas:
    name = random.choice(list(SCENES))
    return _Canvas(scenes.scene(name, random), f" {SCENES[name]}", name)


def _plain(colour: str, random: Random) -> _Canvas:
    return _Canvas(scenes.plain(colour, random))


def _paste_thing(canvas: _Canvas, thing: str, random: Random, small: bool = False) -> Image.Image:
    """Paste a thing near the middle, or smaller at one side; returns its cover."""
    across, down = random.uniform(-0.03, 0.03), random.uniform(-0.02, 0.04)
    middle, share = (
        (random.choice(SIDES), random.uniform(*SMALL_SHARE)) if small else (0.5, random.uniform(*THING_SHARE))
    )
    sprite = sprites.atlas("objects")[thing][0]
    return _paste_about(canvas, sprite, share, SIZE * (middle + across), SIZE * (0.5 + 0.1 * small + down))


def _paste_about(canvas: _Canvas, sprite: Image.Image, share: float, x: float, y: float) -> Image.Image:
    """Paste a sprite about a point, its longer side a share of the image; returns its cover."""
    scale = share * SIZE / max(sprite.size)
    width, height = sprites.scaled_size(sprite, scale)
    return sprites.paste(canvas.picture, sprite, scale, int(x - width / 2), int(y - height / 2))


def _paste_person(canvas: _Canvas, sprite: Image.Image, random: Random, small: bool = False) -> Image.Image:
    """Paste a person who stands on the lower edge, in the middle, or smaller at one side; returns the cover."""
    middle, share = (random.choice(SIDES), SMALL_PERSON_SHARE) if small else (0.5, PERSON_SHARE)
    scale = random.uniform(*share) * SIZE / sprite.height
    width, height = sprites.scaled_size(sprite, scale)
    left = int(SIZE * middle - width / 2 + random.uniform(-2, 2))
    return sprites.paste(canvas.picture, sprite, scale, left, SIZE - height)
