"""Masks that a person made: read, checked, used, recorded and drawn over their images."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mace_studio import erasure, masks
from mace_studio.errors import FileError, RecipeError
from mace_studio.methods.mace import MaceSettings, erase, training_images
from mace_studio.methods.mace import compose as composition
from mace_studio.recipe import Concept, Recipe
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

QUICK = Recipe(
    concepts=(Concept("cat", "forest"), Concept("Ada Finch", "a person", "celebrity")),
    settings=MaceSettings(
        refine=KeepWeights(identity=10.0),
        fuse=KeepWeights(identity=10.0),
        lora=LoraSettings(steps=2, learning_rate=1e-3),
        images=ImageSettings(per_concept=2, steps=2, guidance=4.0),
    ),
)


def half(side, white="left", size=8):
    """A mask that is white on one side."""
    pixels = np.zeros((size, size), np.uint8)
    pixels[:, : size // 2] = 255
    return Image.fromarray(pixels if white == side else 255 - pixels)


def make(model, recipe, user_masks=None):
    warnings = []
    return training_images.make(model, recipe, None, warnings, user_masks), warnings


def run(model, recipe, user_masks):
    return erase.erase(model, recipe, user_masks=user_masks)


@pytest.fixture(scope="module")
def usual(model):
    """QUICK's erasure with the masks of its source, made once."""
    return run(model, QUICK, None)


@pytest.fixture(scope="module")
def left(model):
    """QUICK's erasure with one mask by hand, made once."""
    return run(model, QUICK, {("cat", 1): half("left")})


def same(one, other):
    return all(torch.equal(w, other.weights[key]) for key, w in one.weights.items())


def test_a_given_mask_takes_the_place_of_one_images_mask(model, unchanged):
    usual, _ = make(model, QUICK)
    given = {("cat", 2): half("left"), ("Ada Finch", 1): masks.full((3, 3))}
    drawn, warnings = make(model, QUICK, user_masks=given)
    rows, columns = drawn[0].masks[1].shape
    assert rows == columns == 64
    assert drawn[0].masks[1][:, :32].all() and not drawn[0].masks[1][:, 32:].any()
    assert drawn[1].masks[0].all()
    assert torch.equal(drawn[0].masks[0], usual[0].masks[0]) and torch.equal(drawn[1].masks[1], usual[1].masks[1])
    assert not warnings  # an erasure says it once, also where machines share the work
    assert masks.summary(given) == f"Masks given by hand ({masks.digest(given)}): “Ada Finch” 1; “cat” 2."


def test_given_masks_change_the_erasure_and_its_file_says_so(model, unchanged, usual, left, tmp_path):
    ours, given = left, {("cat", 1): half("left")}
    assert not same(ours, usual) and same(ours, run(model, QUICK, given))
    assert not same(ours, run(model, QUICK, {("cat", 1): half("right")}))
    assert usual.warnings == ()
    ours.save(tmp_path / "cat.safetensors")
    read = erasure.load(tmp_path / "cat.safetensors")
    assert read.warnings == (f"Masks given by hand ({masks.digest(given)}): “cat” 1.",) and read.recipe == QUICK


def test_masks_by_hand_are_part_of_what_a_composition_is(model, usual, left):
    again = composition.compose(model, [left])
    assert same(again, left) and again.warnings == left.warnings
    assert erasure.digest(again) == erasure.digest(left) != erasure.digest(usual)


def test_the_sources_own_masks_given_back_change_nothing(model, usual, tmp_path):
    sheet = training_images.show(model, QUICK)
    masks.write(sheet, tmp_path)
    given = masks.read(tmp_path / "masks", QUICK)
    assert given == masks.read(tmp_path, QUICK)  # the folder that they were written to
    assert len(given) == 4 and all(one.searched for one in sheet.images)
    assert same(run(model, QUICK, given), usual)


def test_masks_that_a_user_changed_are_not_written_over(model, tmp_path):
    sheet = training_images.show(model, QUICK)
    masks.write(sheet, tmp_path)
    assert masks.write(sheet, tmp_path)[0] == tmp_path / "sheet.png"  # the same again
    changed = tmp_path / "masks" / masks.file_name("cat", 1)
    half("left").save(changed)
    held = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    others = training_images.show(model, replace(QUICK, seed=5, concepts=QUICK.concepts[1:]))
    for other in (sheet, others):
        with pytest.raises(FileError, match="and stays"):
            masks.write(other, tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png")} == held


def test_a_white_mask_is_the_whole_image(model):
    white = {(c.phrase, i): masks.full((5, 5)) for c in QUICK.concepts for i in (1, 2)}
    assert same(run(model, QUICK, white), run(model, QUICK.with_settings(masks="none"), None))


def test_an_empty_mask_falls_back_to_the_whole_image_and_says_so(model):
    for recipe in (QUICK, QUICK.with_settings(masks="none")):
        drawn, warnings = make(model, recipe, user_masks={("cat", 1): Image.new("L", (4, 4))})
        assert drawn[0].masks[0] is None
        assert warnings[0].startswith("In 1 of 2 training images of “cat” no part stood out")


@pytest.mark.parametrize("key, says", [(("dog", 1), "“dog” is given, which is no concept"), (("cat", 3), "are 1 to 2")])
def test_a_mask_of_no_training_image_is_refused(model, key, says):
    with pytest.raises(RecipeError, match=says):
        make(model, QUICK, user_masks={key: masks.full((2, 2))})


def test_what_is_shown_is_what_is_trained_on(model, tmp_path):
    seen = []
    sheet = training_images.show(model, QUICK, seen.append, tmp_path)
    assert [(one.key, one.seed) for one in sheet.images] == [
        (("cat", 1), 0), (("cat", 2), 1), (("Ada Finch", 1), 0), (("Ada Finch", 2), 1),
    ]  # fmt: skip
    steps = [p.fraction for p in seen]
    assert steps == sorted(steps) and steps[-1] == 1.0 and {p.stage for p in seen} == {"images", "masks"}
    told = [(i, p.result) for i, p in enumerate(seen) if p.stage == "masks" and p.result is not None]
    assert [one.key for _, one in told] == [one.key for one in sheet.images]
    second = next(i for i, p in enumerate(seen) if p.stage == "masks" and p.concept == "Ada Finch")
    assert told[1][0] < second  # the first concept's come before the second's are looked for
    files = set(tmp_path.iterdir())
    drawn = training_images.make(model, QUICK, tmp_path, [])
    assert set(tmp_path.iterdir()) == files  # nothing was drawn a second time
    for one, mask_IJ in zip(sheet.images, [m for p in drawn for m in p.masks], strict=True):
        assert one.image.size == one.mask.size == (64, 64)
        assert masks.coverage(one.mask) == pytest.approx(mask_IJ.float().mean().item())


def test_styles_are_shown_whole_and_not_as_if_nothing_had_been_found(model):
    style = replace(QUICK, concepts=(Concept("Lena Strich", "art", "style"),))
    sheet = training_images.show(model, style)
    assert [(one.mask, one.searched) for one in sheet.images] == [(None, False)] * 2


def test_any_image_becomes_black_and_white():
    picture = Image.new("RGBA", (4, 1))
    for x, color in enumerate([(255, 255, 255, 255), (255, 255, 255, 60), (90, 90, 90, 255), (200, 200, 200, 255)]):
        picture.putpixel((x, 0), color)
    assert np.asarray(masks.black_and_white(picture)).tolist() == [[255, 0, 0, 255]]
    assert masks.coverage(half("left")) == 0.5 and masks.coverage(None) == 1.0


def test_different_masks_have_different_digests():
    given = [
        {("cat", 1): half("left")},
        {("cat", 1): half("right")},
        {("cat", 2): half("left")},
        {("cat", 1): half("left"), ("cat", 2): half("left")},
    ]
    assert len({masks.digest(g) for g in given}) == 4 and masks.digest({}) == ""
    turned = dict(reversed(given[3].items()))
    assert masks.digest(turned) == masks.digest(given[3]) and len(masks.digest(turned)) == 8


@pytest.mark.parametrize(
    ("kind", "read"), [("PNG", True), ("JPEG", True), ("WEBP", True), ("GIF", False), ("BMP", False)]
)
def test_few_formats_are_decoded(kind, read):
    data = io.BytesIO()
    Image.new("L", (4, 4), 255).save(data, kind)
    if read:
        assert masks.from_bytes(data.getvalue()).getextrema() == (255, 255)
    else:
        with pytest.raises(FileError, match="save the mask as a PNG file"):
            masks.from_bytes(data.getvalue())


@pytest.mark.parametrize(
    "recipe, left",
    [
        (QUICK, {("cat", 1), ("cat", 2), ("Ada Finch", 1)}),
        (
            replace(QUICK, preserve=("dog",)).with_settings(lora=LoraSettings(steps=9)),
            {("cat", 1), ("cat", 2), ("Ada Finch", 1)},
        ),
        (replace(QUICK, seed=1), set()),
        (QUICK.with_settings(images=ImageSettings(2, 3, 4.0)), set()),
        (QUICK.with_settings(images=ImageSettings(1, 2, 4.0)), {("cat", 1), ("Ada Finch", 1)}),
        (
            replace(QUICK, concepts=(Concept("cat", "sky"), Concept("Ada Finch", "art", "style"))),
            {("cat", 1), ("cat", 2)},
        ),
    ],
)
def test_masks_fit_as_long_as_their_images_are_the_same(recipe, left):
    given = {("cat", 1): half("left"), ("cat", 2): half("left"), ("Ada Finch", 1): half("left")}
    assert set(masks.MaskSheet(QUICK, [], given).fitting(recipe)) == left


@pytest.mark.parametrize(
    "files, says",
    [
        ([], r"There are no masks in .*like cat-1\.png"),
        (["dog-1.png"], r"dog-1\.png fits no concept of the recipe; masks are named like cat-1\.png"),
        (["cat-3.png"], r"“cat” has training images 1 to 2, and no 3"),
        (["cat-0.png"], "no 0"),
        (["ada-finch.png"], "fits no concept"),
        (["cat-1.png", "cat-2.jpg"], r"cat-2\.jpg is no PNG file; save the mask as one"),
        (["cat-1.png", "cat-2.BMP"], r"cat-2\.BMP is no PNG file"),
        (["cat-1.png", "cat-7.PNG"], "and no 7"),
    ],
)
def test_a_file_that_is_no_mask_of_the_recipe_is_a_sentence(tmp_path, files, says):
    for name in files:
        half("left").save(tmp_path / name)
    with pytest.raises(FileError, match=says):
        masks.read(tmp_path, QUICK)


def test_a_mask_counts_whatever_the_case_of_its_ending(tmp_path):
    half("left").save(tmp_path / "cat-1.PNG")
    half("right").save(tmp_path / "cat-2.png")
    assert set(masks.read(tmp_path, QUICK)) == {("cat", 1), ("cat", 2)}


def test_a_file_that_is_no_image_is_a_sentence(tmp_path):
    (tmp_path / "cat-1.png").write_bytes(b"no picture")
    with pytest.raises(FileError, match=r"cat-1\.png cannot be read as an image"):
        masks.read(tmp_path, QUICK)


def test_concepts_with_one_slug_have_files_of_their_own(tmp_path):
    phrases = ("Van Gogh", "van-gogh", "C++", "C#", "🐈", "🐕", "a" * 48, "a" * 49)
    recipe = replace(QUICK, concepts=[Concept(phrase, "art") for phrase in phrases])
    names = [masks.file_name(phrase, 1) for phrase in phrases]
    assert len(set(names)) == len(phrases) and names[0] == "van-gogh-1.png"
    for i, name in enumerate(names):
        Image.new("L", (8, 8), 255 if i % 2 else 0).save(tmp_path / name)
        (tmp_path / f"._{name}").write_bytes(b"\0\5\x16\7 of macOS")
    found = masks.read(tmp_path, recipe)
    assert [found[phrase, 1].getextrema()[0] for phrase in phrases] == [0, 255] * 4


@pytest.mark.parametrize("mode", ["L", "I", "I;16", "RGB", "1", "P", "grey P", "LA", "RGBA"])
def test_a_mask_of_zeros_and_ones_counts(mode):
    image = Image.new("L", (8, 8))
    image.paste(1, (0, 0, 4, 8))
    if mode == "P":
        image = image.convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
    else:
        image = image.point(lambda value: 255 * value).convert("1") if mode == "1" else image.convert(mode.split()[-1])
    mask = np.asarray(masks.black_and_white(image))
    assert (mask[:, :4] == 255).all() and (mask[:, 4:] == 0).all()
    assert masks.black_and_white(Image.new("L", (8, 8), 0)).getextrema() == (0, 0)
    assert masks.black_and_white(Image.new("L", (8, 8), 127)).getextrema() == (0, 0)


def test_an_overlay_dims_what_is_outside_of_the_mask():
    image = Image.new("RGB", (8, 8), (10, 20, 30))
    plain, over = masks.overlay(image, None), np.asarray(masks.overlay(image, half("left")))
    assert plain.size == (256, 256) and (np.asarray(plain) == (10, 20, 30)).all()
    assert (over[:, :126] == (10, 20, 30)).all() and (over[:, 128:] == 6).all()
    assert (over[128, 127] == masks.EDGE).all()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    one = masks.MaskedImage(phrase="cat", number=1, seed=0, image=Image.new("RGB", (8, 8)), mask=None, searched=True)
    with pytest.raises(FileError, match=r"could not be written.*Choose another folder"):
        masks.write(masks.MaskSheet(QUICK, [one]), tmp_path / "file")
