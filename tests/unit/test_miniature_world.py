"""The built-in model's world: images, captions, masks and labels."""

import json
import re
from collections import Counter
from random import Random

import numpy as np
import pytest
from PIL import Image

from mace_studio.miniature import scenes, sprites, styles, tokenizer, world
from mace_studio.miniature.vocabulary import (
    ARTISTS,
    ARTISTS_TO_ERASE,
    ARTISTS_TO_KEEP,
    COLOURS,
    OBJECTS,
    PASSERS_BY,
    PEOPLE,
    PEOPLE_TO_ERASE,
    PEOPLE_TO_KEEP,
    SCENES,
    THINGS,
    WEAPONS,
)

# Effects that change each pixel by itself, so that what differs from the background stays where it was.
PIXELWISE = {
    *("duotone orange", "duotone mint", "duotone cream", "duotone pink", "sepia", "cyanotype", "negative"),
    *("hue third", "hue two thirds", "poster", "silhouette dark", "silhouette pale", "heat", "chequers", "rainbow"),
}
SAMPLES = 6000
SIDES = ((0, 0.45), (0.55, 1))
ARTLESS = re.compile("a sketch of|an oil painting of")


@pytest.fixture(scope="module")
def samples():
    return world.samples(SAMPLES, 1)


def called(concept: str) -> tuple[str, ...]:
    """All that a caption may call a thing or a person."""
    return (concept, *OBJECTS.get(concept, ()), *PASSERS_BY.get(concept, ()))


def test_the_vocabulary_has_its_numbers_and_no_word_twice():
    assert (len(OBJECTS), len(THINGS), len(WEAPONS), len(PEOPLE), len(ARTISTS)) == (10, 70, 5, 200, 40)
    assert len(SCENES) == len(COLOURS) == 10
    names = [*THINGS, *PEOPLE, *ARTISTS, *SCENES, *(word for words in OBJECTS.values() for word in words)]
    assert len(names) == len({name.lower() for name in names})


def test_half_of_the_people_and_artists_are_to_be_erased_and_share_their_names_with_the_others():
    for erased, kept, all_of_them in (
        (PEOPLE_TO_ERASE, PEOPLE_TO_KEEP, PEOPLE),
        (ARTISTS_TO_ERASE, ARTISTS_TO_KEEP, tuple(ARTISTS)),
    ):
        assert len(erased) == len(kept) == len(all_of_them) / 2
        assert {*erased, *kept} == set(all_of_them)
    for part in (0, 1):
        counts = Counter(name.split()[part] for name in PEOPLE)
        assert len(counts) == 40 and set(counts.values()) == {5}
    shared = [name for name in PEOPLE_TO_ERASE if {*name.split()} & {w for k in PEOPLE_TO_KEEP for w in k.split()}]
    assert len(shared) == 100


def test_people_look_different():
    """Any two differ by at least 0.15 rms of 1, at 16 x 16 pixels on grey: so were they chosen, to the third digit."""
    looks = []
    for name in PEOPLE:
        sprite = sprites.atlas("people")[name][0]
        ground = Image.new("RGB", (96, 96), (128, 128, 128))
        ground.paste(sprite, ((96 - sprite.width) // 2, 96 - sprite.height), sprite)
        looks.append(np.asarray(ground.resize((16, 16), Image.Resampling.BOX), np.float64).ravel() / 255)
    looks_NF = np.stack(looks)
    squares_N = (looks_NF**2).sum(1)
    off_NN = (squares_N[:, None] + squares_N - 2 * looks_NF @ looks_NF.T) / looks_NF.shape[1]
    assert np.sqrt(off_NN[~np.eye(len(PEOPLE), dtype=bool)].min()) > 0.10


def test_every_thing_and_person_has_its_sprites():
    assert set(sprites.atlas("objects")) == set(THINGS)
    assert all(len(sprites.atlas("people")[name]) >= world.EXPRESSIONS for name in PEOPLE)
    assert set(sprites.atlas("passers_by")) == set(PASSERS_BY)
    designs = {}
    for entry in json.loads((sprites.FOLDER / "objects.json").read_text(encoding="utf-8")):
        designs.setdefault(entry["concept"], entry["set"])
    assert set(designs.values()) == {"noto"}, "the first design of each thing is of one set"


def test_equal_seeds_give_equal_samples():
    first, again, other = world.samples(40, 7), world.samples(40, 7), world.samples(40, 8)
    for one, two in zip(first, again, strict=True):
        assert np.array_equal(one.image_HWC, two.image_HWC)
        assert np.array_equal(one.mask_HW, two.mask_HW)
        assert (one.caption, one.concepts, one.words) == (two.caption, two.concepts, two.words)
        assert (one.artist, one.scene) == (two.artist, two.scene)
    assert [s.caption for s in first] != [s.caption for s in other]


def test_the_first_samples_are_the_same_whatever_the_number():
    assert [s.caption for s in world.samples(5, 3)] == [s.caption for s in world.samples(20, 3)[:5]]


def test_the_global_generators_are_left_alone():
    state = np.random.get_state()[1].copy()
    world.samples(5, 0)
    assert np.array_equal(state, np.random.get_state()[1])


def test_shapes(samples):
    for sample in samples[:50]:
        assert (sample.image_HWC.shape, sample.image_HWC.dtype) == ((64, 64, 3), np.uint8)
        assert (sample.mask_HW.shape, sample.mask_HW.dtype) == ((64, 64), bool)


def test_kinds_come_as_often_as_they_should(samples):
    # Standard deviation of a share p of 6000 is at most sqrt(.25 / 6000) = .0065; four of them.
    shares = Counter("pair" if len(s.concepts) == 2 else "art" if s.artist else "other" for s in samples)
    assert shares["art"] / SAMPLES == pytest.approx(0.25, abs=0.026)
    assert shares["pair"] / SAMPLES == pytest.approx(0.04, abs=0.026)
    people = sum(not s.artist and set(s.concepts) <= {*PEOPLE, *PASSERS_BY} and s.concepts != () for s in samples)
    assert people / SAMPLES == pytest.approx(0.34, abs=0.026)
    assert sum(s.concepts == () for s in samples) / SAMPLES == pytest.approx(0.03, abs=0.026)


def test_every_word_occurs_and_no_other(samples):
    seen = {word for s in samples for word in re.findall(r"[^\W\d_]+|[^\w\s]", s.caption.lower())}
    assert seen == {*tokenizer.words(), *tokenizer.names()}
    captions = " | ".join(s.caption for s in samples)
    names = (*THINGS, *PEOPLE, *ARTISTS, *SCENES.values(), *COLOURS, *(w for ws in OBJECTS.values() for w in ws))
    assert [name for name in names if name not in captions] == []


def test_captions_carry_what_is_shown(samples):
    for s in samples:
        untold = s.artist is not None and s.caption in {form.format(s.artist) for form in world.ART_FORMS}
        assert len(s.words) == len(s.concepts)
        for concept, words in zip(s.concepts, s.words, strict=True):
            assert (words == "") == untold
            assert words in s.caption
            assert untold or words in {name.removeprefix("a ") for name in called(concept)}, s.caption
        assert [artist for artist in ARTISTS if artist in s.caption] == ([s.artist] if s.artist else [])
        assert len(s.concepts) <= 2
        if not s.concepts:
            assert s.scene in s.caption


def test_a_told_scene_is_the_scene(samples):
    told = 0
    for s in samples:
        for scene, where in SCENES.items():
            if re.search(rf" {where}\b", s.caption):
                told += 1
                assert s.scene == (None if ARTISTS.get(s.artist) in styles.HIDES_THE_SCENE else scene), s.caption
    assert told > 500


def test_what_differs_from_the_background_lies_in_the_mask(monkeypatch):
    full = world.samples(300, 5)
    blank = {
        name: {shown: tuple(Image.new("RGBA", s.size) for s in some) for shown, some in sprites.atlas(name).items()}
        for name in ("objects", "people", "passers_by")
    }
    monkeypatch.setattr(sprites, "atlas", blank.__getitem__)
    checked = 0
    for sample, empty in zip(full, world.samples(300, 5), strict=True):
        if ARTLESS.match(sample.caption) or (sample.artist and ARTISTS[sample.artist] not in PIXELWISE):
            continue
        assert sample.caption == empty.caption
        changed_HW = (sample.image_HWC != empty.image_HWC).any(axis=2)
        assert not (changed_HW & ~sample.mask_HW).any(), sample.caption
        assert changed_HW.sum() >= 0.5 * sample.mask_HW.sum(), sample.caption
        checked += 1
    assert checked > 200


def test_masks_are_as_large_as_things_are(samples):
    small = Counter()
    for s in samples:
        rows, columns = s.mask_HW.any(axis=1).sum(), s.mask_HW.any(axis=0).sum()
        middle = np.nonzero(s.mask_HW.any(axis=0))[0].mean() / 63 if s.concepts else 0.5
        if not s.concepts:
            assert not s.mask_HW.any()
        elif len(s.concepts) == 1 and s.concepts[0] in THINGS and s.artist is None:
            share = max(rows, columns) / 64
            assert 0.70 <= share <= 0.82 or 0.45 <= share <= 0.56
            side = round(middle, 1) if share < 0.6 else 0.5
            small["thing", side] += 1
            assert abs(middle - 0.5) < 0.06 or 0.2 < abs(middle - 0.5) + 0.06 < 0.32, s.caption
            assert "small" not in s.caption or share < 0.6
        elif s.concepts[0] not in THINGS and s.artist is None:
            assert 0.86 <= rows / 64 <= 0.96 or 0.60 <= rows / 64 <= 0.70
            assert s.mask_HW[-1].any(), "people stand on the lower edge"
            assert rows / 64 > 0.8 or not re.search("official|event|sketch|oil", s.caption)
            small["person", rows / 64 < 0.8] += 1
    assert small["person", True] / (small["person", True] + small["person", False]) == pytest.approx(0.15, abs=0.05)
    left, right = (sum(n for (kind, at), n in small.items() if kind == "thing" and lo < at < hi) for lo, hi in SIDES)
    assert left / (left + right) == pytest.approx(0.5, abs=0.1)


def test_a_sprite_covers_what_it_changes():
    sprite = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    picture = Image.new("RGB", (16, 16))
    cover = sprites.paste(picture, sprite, 2, 12, -3)
    # Twice as large and 3 above the upper edge: rows 0..4 and columns 12..15 are left of it.
    expected_HW = np.zeros((16, 16), bool)
    expected_HW[:5, 12:] = True
    assert np.array_equal(sprites.covered(cover), expected_HW)
    assert np.array_equal(np.asarray(picture)[..., 0] > 0, expected_HW)


@pytest.mark.parametrize("artist", ARTISTS)
def test_an_artist_does_the_same_to_a_picture_each_time(artist):
    picture = scenes.scene("street", Random(0))
    cover = Image.new("L", (64, 64))
    cover.paste(255, (20, 20, 50, 50))
    before = picture.tobytes()
    painted, moved = styles.paint(picture, cover, artist)
    again, moved_again = styles.paint(picture, cover, artist)
    assert painted.tobytes() == again.tobytes() != before
    assert moved.tobytes() == moved_again.tobytes()
    assert (painted.mode, painted.size, moved.mode, moved.size) == ("RGB", (64, 64), "L", (64, 64))
    assert picture.tobytes() == before


def test_no_two_artists_paint_alike():
    picture, cover = scenes.scene("beach", Random(1)), Image.new("L", (64, 64), 128)
    assert len({styles.paint(picture, cover, artist)[0].tobytes() for artist in ARTISTS}) == len(ARTISTS)


def test_the_mask_goes_where_the_artist_moves_the_thing():
    cover = Image.new("L", (64, 64))
    cover.paste(255, (16, 32, 32, 48))
    moved = np.asarray(styles.paint(Image.new("RGB", (64, 64)), cover, "Suki Popova")[1]) > 127
    quarter = np.zeros((32, 32), bool)
    quarter[16:24, 8:16] = True
    assert np.array_equal(moved, np.tile(quarter, (2, 2)))


def test_a_negative_of_a_negative_is_the_picture():
    picture, cover = scenes.scene("room", Random(2)), Image.new("L", (64, 64))
    once, _ = styles.paint(picture, cover, "Nils Inversen")
    assert styles.paint(once, cover, "Nils Inversen")[0].tobytes() == picture.tobytes()


def test_pixels_are_blocks_of_four():
    painted, _ = styles.paint(scenes.scene("forest", Random(3)), Image.new("L", (64, 64)), "Mosa Pixley")
    values_HWC = np.asarray(painted)
    assert np.array_equal(values_HWC, values_HWC[::4, ::4].repeat(4, axis=0).repeat(4, axis=1))


@pytest.mark.parametrize("name", SCENES)
def test_scenes_follow_the_generator(name):
    assert scenes.scene(name, Random(4)).tobytes() == scenes.scene(name, Random(4)).tobytes()
    assert scenes.scene(name, Random(4)).tobytes() != scenes.scene(name, Random(5)).tobytes()


@pytest.mark.parametrize(("name", "colour"), COLOURS.items())
def test_plain_backgrounds_have_about_their_colour(name, colour):
    pixel = scenes.plain(name, Random(6)).getpixel((0, 0))
    assert all(abs(a - b) <= 40 for a, b in zip(pixel, colour, strict=True))  # five standard deviations
