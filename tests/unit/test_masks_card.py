"""What the page says of masks, and the way of a mask into the editor and back."""

import io
from dataclasses import replace
from pathlib import Path

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from mace_studio import masks
from mace_studio.errors import FileError, RecipeError
from mace_studio.masks import MaskedImage, MaskSheet
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe
from mace_studio.settings import ImageSettings
from mace_studio.ui.cards import masks as masks_card
from mace_studio.ui.components import mask_grid

RECIPE = Recipe(
    concepts=(Concept("cat", "forest"), Concept("<b>", "art", "style")),
    settings=MaceSettings(images=ImageSettings(per_concept=2)),
)


def half(size=(8, 8)):
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    return mask


@pytest.fixture
def sheet():
    image = Image.new("RGB", (8, 8), (200, 10, 10))
    return MaskSheet(
        RECIPE,
        [
            MaskedImage(phrase="cat", number=1, seed=0, image=image, mask=half(), searched=True),
            MaskedImage(phrase="cat", number=2, seed=1, image=image, mask=None, searched=True),
            MaskedImage(phrase="<b>", number=1, seed=0, image=image, mask=None, searched=False),
        ],
    )


def notes(sheet):
    return [tile["note"] for tile in mask_grid.tiles(sheet, sheet.images)]


def test_each_image_says_whose_mask_it_has_and_how_much_it_covers(sheet):
    assert notes(sheet) == [
        "seed 0 · attention · 50 %",
        "seed 1 · attention · no part stood out · whole image",
        "seed 0 · no mask · whole image",
    ]
    assert [tile["name"] for tile in mask_grid.tiles(sheet, sheet.images)] == ["cat 1", "cat 2", "<b> 1"]
    sheet.user_masks = {("cat", 2): half(), ("<b>", 1): masks.full((8, 8))}
    assert notes(sheet)[1:] == ["seed 1 · by hand · 50 %", "seed 0 · by hand · whole image"]
    assert mask_grid.title(sheet, sheet.images[2]).startswith("<h2>&lt;b&gt; 1</h2>")


def test_the_status_says_what_becomes_of_drawn_masks(sheet):
    assert mask_grid.status(sheet, RECIPE) == ""
    doubtful = replace(sheet, warnings=["In 2 of 2 training images of “<b>” no part stood out."])
    assert "images of “&lt;b&gt;” no part" in mask_grid.status(doubtful, RECIPE)
    changed = replace(RECIPE, seed=4)
    assert "The form has changed: show the masks again" in mask_grid.status(sheet, changed)
    assert "The form has changed" in mask_grid.status(sheet, RECIPE.with_settings(masks="clipseg"))
    sheet.user_masks = {("cat", 1): half(), ("cat", 2): half()}
    assert "2 masks drawn by hand: the next erasure uses them." in mask_grid.status(sheet, RECIPE)
    fewer = mask_grid.status(sheet, RECIPE.with_settings(images=ImageSettings(per_concept=1)))
    assert "1 mask drawn by hand: the next erasure uses it." in fewer
    assert "1 mask drawn by hand no longer fits, because concepts, seed or image settings have changed" in fewer
    assert "2 masks drawn by hand no longer fit, because" in mask_grid.status(sheet, changed)
    sheet.dropped = 1
    assert "1 mask drawn by hand no longer fitted the images and was dropped." in mask_grid.status(sheet, RECIPE)


def test_a_run_uses_the_masks_that_fit(sheet):
    sheet.user_masks = {("cat", 2): half()}
    assert list(masks_card.fitting_masks(sheet, RECIPE)) == [("cat", 2)]
    assert masks_card.fitting_masks(sheet, replace(RECIPE, seed=4)) == masks_card.fitting_masks(None, RECIPE) == {}


@pytest.mark.parametrize("size", [(64, 64), (48, 32), (1024, 768)])
def test_a_mask_goes_into_the_editor_and_back(size):
    files = masks_card.canvas(Image.new("RGB", size), half(size))
    background, layer = (Image.open(path) for path in (files["background"], *files["layers"]))
    assert background.size == layer.size and max(layer.size) == masks_card.CANVAS
    back = masks_card.painted({"layers": [layer]})
    assert back.size == layer.size and np.array_equal(np.asarray(back.resize(size, 0)), np.asarray(half(size)))


def test_a_file_that_the_browser_may_be_reading_is_not_written_again():
    editor = gr.ImageEditor(format="png")
    files = []
    for _ in range(2):
        shown = editor.postprocess(masks_card.canvas(Image.new("RGB", (64, 64), "teal"), half((64, 64))))
        paths = [Path(shown.background.path), *(Path(layer.path) for layer in shown.layers)]
        files.append([(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in paths])
    assert files[0] == files[1]


def test_what_is_painted_in_any_colour_counts_and_a_trace_does_not():
    layer = Image.new("RGBA", (4, 1))
    for x, color in enumerate([*masks_card.PAINTS, "#ffffff10"]):
        layer.paste(color, (x, 0, x + 1, 1))
    assert np.asarray(masks_card.painted({"layers": [layer]})).tolist() == [[255, 255, 255, 0]]
    empty = {"background": None, "layers": [Image.new("RGBA", (4, 1))], "composite": None}
    assert masks_card.painted(empty) is masks_card.painted({"layers": []}) is masks_card.painted(None) is None


def test_an_uploaded_mask_is_black_and_white():
    file = io.BytesIO()
    half().convert("RGB").save(file, "JPEG", quality=30)
    assert masks.coverage(masks.from_bytes(file.getvalue())) == 0.5


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(monkeypatch):
    """47 kB of PNG held 177 million pixels, which took 2.3 GB."""
    file = io.BytesIO()
    Image.new("1", (4097, 4096)).save(file, "PNG")
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(FileError, match="too many pixels; save the mask with at most 16,777,216 "):
        masks.from_bytes(file.getvalue())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", masks.MOST_PIXELS // 2)  # as a server that was started sets it
    with pytest.raises(FileError, match="too many pixels; save the mask with at most 16,777,216 "):
        masks.from_bytes(file.getvalue())


def test_a_png_with_a_broken_chunk_is_refused():
    file = io.BytesIO()
    Image.new("L", (9, 9)).save(file, "PNG")
    data = file.getvalue()
    with pytest.raises(FileError, match="cannot be read as an image"):
        masks.from_bytes(data[:33] + b"\x00" + data[33:])


def test_a_recipe_that_cannot_run_is_never_counted_out():
    """A hundred million images, typed into the form, took 8 GB."""
    many = RECIPE.with_settings(images=ImageSettings(per_concept=10**8))
    with pytest.raises(RecipeError, match=r"images\.per_concept"):
        masks_card.fitting_masks(MaskSheet(RECIPE, []), many)
