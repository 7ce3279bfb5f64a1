"""The Attention tab and the preview of the refinement in a real browser."""

import re
import threading

import numpy as np
import pytest
from PIL import Image

from mace_studio.runtime import result_files
from mace_studio.sd import sampling
from mace_studio.settings import KeepWeights
from mace_studio.ui.tabs import attention
from tests.steps import choose, choose_model, field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=30_000)

pytestmark = pytest.mark.browser

PROGRESS = "#attention-progress"
PROMPT = "a photo of the car in the forest"


@pytest.fixture
def tab(page, erased):
    """The tab with a prompt about the erased car and few steps."""
    page.get_by_role("tab", name="Attention").click()
    choose_model(page, "#attention-model", "erased car")
    expect(field(page, "attention-prompt")).to_have_value("a photo of the car")
    field(page, "attention-prompt").fill(PROMPT)
    field(page, "attention-steps").fill("3")
    return page


def cells(page, row):
    return page.locator(f".maps-grid tbody tr:nth-child({row}) canvas")


def colours(page, row, column):
    """All pixels of a map on the page."""
    return (
        cells(page, row)
        .nth(column)
        .evaluate("c => Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)")
    )


def test_a_prompt_is_read_before_and_after(tab):
    tab.locator("#read").click()
    expect(tab.locator(PROGRESS)).to_contain_text("Finished")
    expect(tab.locator(".maps-grid thead button")).to_have_count(11)
    words = [w.strip() for w in tab.locator(".maps-grid thead button").all_inner_texts()]
    assert words == ["⟨start⟩", "a", "photo", "of", "the", "car", "in", "the", "forest", "⟨end⟩", "⟨padding⟩"]
    expect(tab.locator(".maps-grid tbody th b")).to_have_text(["before", "after", "difference"])
    expect(tab.locator(".maps-grid thead .is-concept")).to_have_text("car")
    expect(tab.locator(".maps-large h3")).to_have_text("“car”")
    expect(tab.locator(".maps-finding")).to_have_text(
        re.compile(
            r"^The judge sees “car” in the image with a probability of [\d.]+ % before and [\d.]+ % after; "
            r"the word “car” gets [\d.]+ % of the attention( where the concept was)? before and [\d.]+ % after "
            r"the erasure\.$"
        )
    )
    expect(tab.get_by_label("One colour scale")).not_to_be_checked()
    expect(tab.locator("#mass tbody tr")).to_have_count(11)
    shares = [float(v.split()[0]) for v in tab.locator("#mass tbody td:nth-child(2)").all_inner_texts()]
    assert sum(shares) == pytest.approx(100, abs=1)
    expect(tab.locator("#mass")).to_contain_text("End and padding tokens together")

    tab.get_by_role("button", name="forest", exact=True).click()
    expect(tab.locator(".maps-large h3")).to_have_text("“forest”")
    expect(tab.locator(".maps-large figcaption")).to_have_text(["before", "after", "difference"])
    cells(tab, 1).nth(6).hover(position={"x": 2, "y": 2})
    expect(tab.locator(".maps-value")).to_have_text(re.compile(r"^in, before, row 1, column 1: \d+\.\d %$"))


def test_the_maps_change_with_steps_scale_layers_heads_and_half(tab):
    tab.locator("#read").click()
    expect(tab.locator(".maps-grid canvas")).to_have_count(33)
    whole = colours(tab, 1, 6)
    last = tab.get_by_role("slider", name="Last step")
    last.focus()
    tab.keyboard.press("Home")
    expect(tab.locator(".maps-steps output")).to_have_text("step 1")
    assert colours(tab, 1, 6) != whole
    tab.get_by_role("button", name="▶ Play").click()
    expect(tab.locator(".maps-steps output")).to_have_text("step 3")
    tab.get_by_role("button", name="■ Stop").click()
    expect(tab.get_by_role("button", name="▶ Play")).to_be_visible()

    own = colours(tab, 1, 6)
    tab.get_by_label("One colour scale").check()
    assert colours(tab, 1, 6) != own  # not the most telling word, which has the whole scale either way
    tab.get_by_label("Over the image").check()
    expect(tab.locator(".maps")).to_have_class(re.compile("is-over"))

    choose(tab, "#maps-layers", "8 x 8, 4 heads")
    tab.wait_for_function("document.querySelector('.maps-grid canvas').width === 8")
    first = colours(tab, 1, 6)
    choose(tab, "#maps-heads", "Head 3")
    tab.wait_for_function("first => { const c = document.querySelectorAll('.maps-grid tbody tr')[0]"
                          ".querySelectorAll('canvas')[6]; return String(Array.from(c.getContext('2d')"
                          ".getImageData(0, 0, 8, 8).data)) !== String(first); }", arg=first)  # fmt: skip
    choose(tab, "#maps-side", "Negative prompt (unconditional)")
    expect(tab.locator(".maps-grid thead button")).to_have_text(["⟨start⟩", "⟨end⟩", "⟨padding⟩"])


def test_figures_and_data_can_be_downloaded(tab):
    tab.locator("#read").click()
    expect(tab.locator("#maps-file-0")).to_be_enabled()
    found = []
    for button in (".maps-save", "#maps-file-0", "#maps-file-1"):
        with tab.expect_download() as download:
            tab.locator(button).click()
        found.append(download.value.path())
    with Image.open(found[0]) as picture:
        assert picture.width > 1000
        plain = picture.convert("RGB")
    assert found[1].read_bytes().startswith(b"%PDF")
    with np.load(found[2], allow_pickle=False) as data:
        assert data["before/conditional/16 x 16, 4 heads"].shape == (3, 4, 11, 16, 16)

    tab.get_by_label("Over the image").check()
    choose(tab, "#maps-layers", "8 x 8, 4 heads")
    tab.wait_for_function("document.querySelector('.maps-grid canvas').width === 8")
    with tab.expect_download() as download:
        tab.locator(".maps-save").click()
    with Image.open(download.value.path()) as picture:
        assert picture.size == plain.size and picture.convert("RGB").tobytes() != plain.tobytes()


def test_the_maps_do_not_wait_for_the_files(tab, monkeypatch):
    write, go_on = result_files.write_inspection, threading.Event()

    def held(*arguments):
        assert go_on.wait(60)
        return write(*arguments)

    monkeypatch.setattr(result_files, "write_inspection", held)
    tab.locator("#read").click()
    try:
        expect(tab.locator(".maps-grid canvas")).to_have_count(33)
        expect(tab.locator("#mass tbody tr")).to_have_count(11)
        expect(tab.locator("#maps-file-0")).to_be_disabled()
        field(tab, "attention-seed").fill("1, 2")
        tab.locator("#read").click()
        expect(tab.locator("#attention-notice")).to_contain_text("Seed: 2 seeds are given")
    finally:
        go_on.set()
    expect(tab.locator("#maps-file-0")).to_be_enabled()


def test_the_maps_before_are_seen_while_the_others_are_read(tab, monkeypatch):
    generate, go_on, calls = sampling.generate, threading.Event(), []

    def held(*arguments):
        calls.append(arguments)
        assert len(calls) == 1 or go_on.wait(60)
        return generate(*arguments)

    monkeypatch.setattr(sampling, "generate", held)
    tab.locator("#read").click()
    try:
        expect(tab.locator(".maps-grid tbody th b")).to_have_text(["before"])
        expect(tab.locator(".maps-finding")).to_have_text(re.compile(r"^The model spends [\d.]+ % .* on “car”"))
        expect(tab.locator("#mass tbody tr")).to_have_count(11)
        expect(tab.locator("#maps-file-0")).to_be_disabled()
        choose(tab, "#maps-layers", "8 x 8, 4 heads")
        tab.wait_for_function("document.querySelector('.maps-grid canvas').width === 8")
        choose(tab, "#maps-heads", "Head 3")
    finally:
        go_on.set()
    expect(tab.locator(".maps-grid tbody th b")).to_have_text(["before", "after", "difference"])
    expect(tab.locator("#maps-file-0")).to_be_enabled()
    tab.wait_for_function("document.querySelector('.maps-grid canvas').width === 8")  # what was chosen meanwhile
    expect(tab.locator("#maps-heads input")).to_have_value("Head 3")


def test_the_bars_are_as_long_as_the_numbers_say(tab):
    tab.locator("#read").click()
    expect(tab.locator("#mass tbody tr")).to_have_count(11)
    cells = tab.locator("#mass tbody td:has(i)")  # before and after
    shares = [float(text.split()[0]) for text in cells.all_inner_texts()]
    widths = cells.locator("i").evaluate_all("bars => bars.map((bar) => parseFloat(bar.style.width))")
    assert widths == pytest.approx([100 * share / max(shares) for share in shares], abs=0.2)


def test_the_residual_experiment_has_three_rows(tab):
    tab.locator("#residual").click()
    expect(tab.locator(".maps-grid tbody th b")).to_have_text(["original", "refined", "erased"])
    expect(tab.locator(".maps-grid thead .is-replaced")).to_have_text("car")
    expect(tab.locator("#presence")).to_contain_text(re.compile(r"original \d+\.\d % car · refined .* · erased .*"))
    field(tab, "attention-prompt").fill("a photo of the dog")
    tab.locator("#residual").click()
    expect(tab.locator("#attention-notice")).to_contain_text("Prompt: The prompt names no erased concept")
    expect(field(tab, "attention-prompt")).to_have_attribute("aria-invalid", "true")


def test_a_model_as_it_is_and_a_reload(tab, guard, monkeypatch):
    guard.allow_unloading()
    choose(tab, "#attention-model", "None: the model as it is")
    tab.locator("#read").click()
    expect(tab.locator(".maps-grid tbody th b")).to_have_text(["before"])
    field(tab, "attention-seed").fill("1, 2")
    tab.locator("#read").click()
    expect(tab.locator("#attention-notice")).to_contain_text("Seed: 2 seeds are given")
    field(tab, "attention-seed").fill("7")
    tab.locator("#read").click()
    expect(tab.locator(PROGRESS)).to_contain_text("Finished")
    real, asked, go_on = attention.suggestions, threading.Event(), threading.Event()

    def late(*args):
        asked.set()
        assert go_on.wait(30)
        return real(*args)

    monkeypatch.setattr(attention, "suggestions", late)
    tab.reload()
    tab.get_by_role("tab", name="Attention").click()
    expect(tab.locator(".maps-grid tbody th b")).to_have_text(["before"])
    assert asked.wait(30)  # for a prompt about the first model of the list
    field(tab, "attention-prompt").fill("a boat")
    go_on.set()
    tab.wait_for_timeout(700)
    expect(field(tab, "attention-prompt")).to_have_value("a boat")


def test_cancel_stops_the_reading(tab):
    field(tab, "attention-steps").fill("999")
    tab.locator("#read").click()
    expect(tab.locator(PROGRESS)).to_contain_text(re.compile(r"Generating [\d.]+ of 2 "))
    tab.locator("#attention-cancel").click()
    expect(tab.locator(PROGRESS)).to_contain_text("Cancelled")
    expect(tab.locator("#read")).to_be_enabled()


def test_what_is_typed_never_becomes_markup_in_the_maps(tab):
    field(tab, "attention-prompt").fill("<img src=x onerror=alert(1)> car")
    tab.locator("#read").click()
    expect(tab.locator(PROGRESS)).to_contain_text("Finished")
    expect(tab.locator("#mass")).to_contain_text("onerror")
    assert tab.locator("img[src=x]").count() == 0


def test_an_edit_is_previewed_and_a_new_one_ends_it(page, fast, open_recipe, studio):
    open_recipe(page, fast.with_settings(refine=KeepWeights(preserve=1.0, identity=0.1)))
    page.get_by_label("Preview while I edit").check()
    shown = page.locator("#preview img")
    expect(shown).to_have_count(2)
    expect(page.locator("#preview")).to_contain_text("a photo of the car · seed 0 · 12 steps")
    first = [shown.nth(i).get_attribute("src") for i in range(2)]
    assert first[0] != first[1]
    page.get_by_label("λ3", exact=True).press("End")
    page.get_by_label("λ3", exact=True).press_sequentially("000", delay=150)  # 1000, through 10 and 100
    expect(shown.nth(1)).not_to_have_attribute("src", first[1])
    assert shown.nth(0).get_attribute("src") == first[0]
    field(page, "preview-prompt").fill("a photo of the ship")
    expect(page.locator("#preview")).to_contain_text("a photo of the ship · seed 0")
    page.locator('#concepts [data-cell="0-1"]').fill(" ")
    expect(page.locator("#preview")).to_contain_text("Row 1: Say what “car” maps to")
    page.get_by_label("Preview while I edit").uncheck()
    expect(page.locator("#preview")).to_have_text("")


@pytest.mark.parametrize(
    "context", [{"viewport": {"width": 390, "height": 844}, "has_touch": True, "color_scheme": "dark"}], indirect=True
)
def test_the_tab_fits_a_phone(tab):
    tab.locator("#read").click()
    expect(tab.locator(".maps-large canvas")).to_have_count(3)
    expect(tab.locator(PROGRESS)).to_be_in_viewport()  # far below the button, which stays where it is
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    expect(tab.locator("#read")).to_be_in_viewport()
