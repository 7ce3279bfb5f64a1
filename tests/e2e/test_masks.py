"""Training images and masks on the Erase tab, in a real browser: shown, drawn with the mouse, uploaded, used."""

import io
import re
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mace_studio.methods.mace import masks
from mace_studio.recipe import Concept
from mace_studio.ui.cards import masks as masks_card
from tests.steps import field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=30_000)

pytestmark = pytest.mark.browser


@pytest.fixture
def left_half():
    """The bytes of a mask that is white on the left."""
    mask = Image.new("L", (40, 40))
    mask.paste(255, (0, 0, 20, 40))
    file = io.BytesIO()
    mask.save(file, "PNG")
    return file.getvalue()


def show(page):
    page.locator("#show-masks").click()
    expect(page.locator("#mask-grid img")).to_have_count(1)


def pick(page):
    page.locator("#mask-grid button").first.click()
    expect(page.locator("#use-mask")).to_be_visible()
    expect(page.locator("#mask-title")).to_contain_text("car 1")


def stroke(page, dx, dy):
    """Paint with the mouse, downwards, so many pixels away from the middle of the editor."""
    page.locator("#mask-editor").scroll_into_view_if_needed()
    box = page.locator("#mask-editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2 + dx, box["y"] + box["height"] / 2 + dy
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x, y + 20, steps=6)
    page.mouse.up()


def given(studio):
    """The masks that were drawn over the newest images."""
    jobs = [job for job in studio.jobs() if job.title.startswith("Masks of")]
    return jobs[-1].result.user_masks


def test_a_mask_is_drawn_used_by_the_run_and_dropped_when_it_no_longer_fits(page, studio, upload, left_half):
    page.locator("#advanced button").first.click()  # typing at once could meet Gradio while it builds the fields
    show(page)
    note, status, image = page.locator("#mask-grid span"), page.locator("#masks-status"), page.locator("#mask-grid img")
    expect(note).to_have_text(re.compile(r"seed 0 · attention · \d+ %"))
    before = image.get_attribute("src")
    pick(page)
    upload(page, "#upload-mask", "mask.png", left_half)
    expect(note).to_have_text("seed 0 · by hand · 50 %")
    expect(status).to_contain_text("1 mask drawn by hand: the next erasure uses it.")
    uploaded = image.get_attribute("src")
    assert uploaded != before
    stroke(page, 90, 0)
    page.locator("#use-mask").click()
    expect(note).to_have_text(re.compile(r"seed 0 · by hand · 5[1-9] %"))
    assert image.get_attribute("src") != uploaded
    white = np.asarray(given(studio)["car", 1]) > 0
    height, width = white.shape
    assert white[height // 2, : width // 2].all() and white[height // 2].sum() > width // 2 + 20
    assert not white[: height // 4, width // 2 + 2 :].any() and not white[-height // 4 :, width // 2 + 2 :].any()

    page.locator("#erase").click()
    expect(page.locator("#erase-progress")).to_contain_text("Finished")
    expect(page.locator("#summary")).to_contain_text(re.compile(r"Masks given by hand \(\w{8}\): “car” 1\."))
    expect(page.locator("#summary b").first).to_have_text(re.compile(r"^car-\w{8}$"))

    # The images of the verdict push the editor down while they come.
    expect(page.locator("#outcome .verdict")).to_be_visible(timeout=90_000)
    page.locator("#whole-image").click()
    expect(note).to_have_text("seed 0 · by hand · whole image")
    page.locator("#source-mask").click()
    expect(image).to_have_attribute("src", before)
    assert given(studio) == {}
    expect(status).not_to_contain_text("drawn by hand")
    page.locator("#whole-image").click()
    expect(status).to_contain_text("the next erasure uses it")
    field(page, "seed").fill("5")
    expect(status).to_contain_text("1 mask drawn by hand no longer fits")
    page.locator("#show-masks").click()
    expect(note).to_have_text(re.compile("seed 5 · attention"))
    expect(status).to_contain_text("1 mask drawn by hand no longer fitted the images and was dropped.")


@pytest.mark.parametrize(
    "context", [{"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}], indirect=True
)
def test_drawn_masks_outlive_a_reload_on_a_phone(page, upload, left_half, guard):
    show(page)
    pick(page)
    # The editor shows its mask some time after the title names it, and cannot be cleared before: it says so, where it
    # is cleared while it reads the mask.
    guard.allow("No draw texture found for layer")
    for _ in range(10):
        page.locator("#mask-editor").get_by_label("Clear canvas").click()
        page.locator("#use-mask").click()
        page.wait_for_timeout(1000)
        if page.locator("#mask-notice").get_by_text("Nothing is painted.").count():
            break
    expect(page.locator("#mask-notice")).to_contain_text("Nothing is painted.")
    page.wait_for_function("document.querySelector('#mask-panel').getBoundingClientRect().top < innerHeight / 2")
    upload(page, "#upload-mask", "bad.png", b"no picture")
    expect(page.locator("#mask-notice")).to_contain_text("This cannot be read as an image")
    upload(page, "#upload-mask", "mask.png", left_half)
    expect(page.locator("#mask-grid span")).to_have_text("seed 0 · by hand · 50 %")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    guard.allow_unloading()
    page.reload()
    expect(page.locator("#mask-grid span")).to_have_text("seed 0 · by hand · 50 %")


@pytest.mark.slow
def test_quick_presses_are_about_the_image_that_was_pressed_and_none_is_lost(
    page, fast, open_recipe, studio, upload, left_half, monkeypatch
):
    draw = masks_card.canvas

    def late(*given):
        time.sleep(0.5)  # as on a slow machine
        return draw(*given)

    open_recipe(page, replace(fast, concepts=(*fast.concepts, Concept("frog", "grass"))))
    page.locator("#show-masks").click()
    expect(page.locator("#masks-progress")).to_contain_text("Finished")
    car, frog = (page.locator("#mask-grid button").nth(i) for i in range(2))
    pick(page)
    upload(page, "#upload-mask", "mask.png", left_half)
    expect(car).to_contain_text("by hand · 50 %")
    monkeypatch.setattr(masks_card, "canvas", late)
    frog.click()
    page.locator("#use-mask").click()  # what is in the editor by now
    page.locator("#whole-image").click()  # of the frog
    expect(frog).to_contain_text("by hand · whole image")
    expect(page.locator("#mask-title")).to_contain_text("frog 1")
    expect(car).to_contain_text("by hand · 50 %")
    for _ in range(2):
        page.locator("#source-mask").click()
        page.locator("#whole-image").click()
    page.locator("#source-mask").click()
    car.click()
    page.locator("#whole-image").click()
    expect(car).to_contain_text("by hand · whole image")
    expect(frog).to_contain_text("attention")
    expect(page.locator("#mask-title")).to_contain_text("car 1")
    assert set(given(studio)) == {("car", 1)}


def test_masks_come_one_after_another_and_a_cancel_keeps_them(page, fast, open_recipe, monkeypatch):
    find, go_on = masks.of_concept, threading.Event()

    def held(source, recipe, concept, *rest, **options):
        assert concept.phrase != "frog" or go_on.wait(60)
        return find(source, recipe, concept, *rest, **options)

    monkeypatch.setattr(masks, "of_concept", held)
    open_recipe(page, replace(fast, concepts=(*fast.concepts, Concept("frog", "grass"))))
    tile = page.locator("#mask-grid button")
    try:
        page.locator("#show-masks").click()
        expect(tile).to_have_text(re.compile("car 1"))
        expect(tile).to_be_disabled()
        page.locator("#masks-cancel").click()
        expect(page.locator("#masks-cancel")).to_have_text("Stopping …")
    finally:
        go_on.set()
    expect(page.locator("#masks-progress")).to_contain_text("Cancelled")
    expect(page.locator("#masks-status")).to_contain_text("This was stopped before all images were there")
    expect(tile).to_have_count(1)
    pick(page)


# Presses the first image as soon as it can be pressed.
PRESS_AT_ONCE = """() => new MutationObserver((_, observer) => {
  const tile = document.querySelector("#mask-grid button:enabled");
  if (tile) { observer.disconnect(); tile.click(); }
}).observe(document.querySelector("#mask-grid"), { childList: true, subtree: true })"""


@pytest.mark.slow
def test_an_image_that_is_pressed_before_the_editor_is_ready(page):
    page.locator("#advanced button").first.click()
    browser = page.context.new_cdp_session(page)
    browser.send("Emulation.setCPUThrottlingRate", {"rate": 10})
    page.evaluate(PRESS_AT_ONCE)
    page.locator("#show-masks").click()
    expect(page.locator("#use-mask")).to_be_visible()
    expect(page.locator("#mask-editor .toolbar-wrap").first).to_be_visible()
    browser.send("Emulation.setCPUThrottlingRate", {"rate": 1})
    tile = page.locator("#mask-grid button")
    source = re.search(r"\d+ %", tile.inner_text())[0]
    page.locator("#use-mask").click()
    expect(tile).to_contain_text(f"by hand · {source}")  # the mask was painted in the editor
