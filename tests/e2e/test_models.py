"""The Models tab in a real browser."""

import re
import threading
import time
import zipfile
from dataclasses import replace

import pytest
from safetensors import safe_open

from mace_studio.recipe import Concept
from mace_studio.runtime import library
from mace_studio.ui.tabs import attention, compare
from tests.steps import choose, choose_model, field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def other(studio, fast):
    """A second erased model, of something else."""
    recipe = replace(fast, concepts=(Concept("frog", "grass"),), preserve=(), name="green frog")
    return studio.erase(recipe).wait().name


@pytest.fixture
def tab(page, erased, other):
    page.get_by_role("tab", name="Models").click()
    expect(box(page, other)).to_be_visible()
    return page


def box(page, name):
    """The checkbox of a model in the list."""
    return page.locator("#models").get_by_label(name, exact=True)


def press(page, name):
    box(page, name).check()
    expect(page.locator("#details h2")).to_contain_text(re.compile(f"{re.escape(name)}|models"))


@pytest.mark.slow
def test_a_late_answer_keeps_what_was_chosen_meanwhile(tab, erased, studio, monkeypatch):
    real, answered, go_on = studio.listing, [], threading.Event()

    def late():
        assert go_on.wait(60)
        answered.append(True)
        return real()

    tab.get_by_role("tab", name="Erase").click()
    monkeypatch.setattr(studio, "listing", late)
    tab.get_by_role("tab", name="Models").click()
    press(tab, erased)
    tab.locator("#rename").click()
    field(tab, "new-name").fill("half of a na")
    assert not answered
    go_on.set()
    for _ in range(30):
        tab.wait_for_timeout(100)
        if answered:
            break
    tab.wait_for_timeout(500)
    assert answered
    expect(box(tab, erased)).to_be_checked()
    expect(tab.locator("#details h2")).to_contain_text(erased)
    expect(field(tab, "new-name")).to_have_value("half of a na")
    expect(field(tab, "new-name")).to_be_visible()
    for _ in range(3):  # each time the list is made again
        tab.get_by_role("tab", name="Erase").click()
        tab.get_by_role("tab", name="Models").click()
        tab.wait_for_timeout(2000)
        expect(box(tab, erased)).to_be_checked()
        expect(tab.locator("#details h2")).to_contain_text(erased, timeout=1000)


@pytest.mark.slow
def test_a_model_that_the_user_chose_stays_until_there_is_another_newest(tab, erased, other):
    press(tab, other)
    tab.locator("#model-compare").click()
    chosen, read = tab.locator("#erased-model input"), tab.locator("#attention-model input")
    measured = tab.locator("#evaluate-model label:has(input:checked)")
    expect(chosen).to_have_value(re.compile("^green frog · "))
    choose_model(tab, "#erased-model", "erased car")
    tab.get_by_role("tab", name="Attention").click()
    expect(read).to_have_value(re.compile("^green frog · "))
    choose(tab, "#attention-model", attention.AS_IT_IS)
    tab.get_by_role("tab", name="Evaluate").click()
    expect(measured).to_have_text(re.compile(r"^\s*green frog · "))
    tab.locator("#evaluate-model label", has_text="erased car · ").locator("input").check()
    tab.locator("#evaluate-model label", has_text="green frog · ").locator("input").uncheck()
    expect(measured).to_have_text(re.compile(r"^\s*erased car · "))

    for name in ("Models", "Compare", "Attention", "Evaluate", "Models"):
        tab.get_by_role("tab", name=name).click()
        tab.wait_for_timeout(700)  # the list is made again
    tab.locator("#rename").click()
    field(tab, "new-name").fill("greener frog")
    tab.locator("#save-name").click()  # which is no other newest
    expect(tab.locator("#details h2")).to_contain_text("greener frog")
    expect(tab.locator("#rename-panel")).to_be_hidden()
    tab.locator("#rename").click()
    field(tab, "new-name").fill(other)
    tab.locator("#save-name").click()
    expect(box(tab, other)).to_be_visible()
    tab.get_by_role("tab", name="Compare").click()
    tab.wait_for_timeout(700)
    expect(chosen).to_have_value(re.compile("^erased car · "))
    tab.get_by_role("tab", name="Attention").click()
    expect(read).to_have_value(attention.AS_IT_IS)
    tab.get_by_role("tab", name="Evaluate").click()
    expect(measured).to_have_text(re.compile(r"^\s*erased car · "))

    tab.get_by_role("tab", name="Models").click()
    tab.locator("#model-compare").click()  # asked for once more
    expect(chosen).to_have_value(re.compile("^green frog · "))
    tab.get_by_role("tab", name="Attention").click()
    expect(read).to_have_value(re.compile("^green frog · "))


@pytest.mark.slow
def test_prompts_that_nobody_typed_are_those_of_the_model_that_is_compared(tab, other, erased, studio, monkeypatch):
    press(tab, erased)
    tab.locator("#model-compare").click()
    expect(field(tab, "prompts")).to_have_value("a photo of the car\na photo of the ship")
    real, late_by = compare.suggestions, [4]  # seconds; of the answer for the box alone

    def late(*args):
        time.sleep(late_by.pop() if late_by else 0)
        return real(*args)

    monkeypatch.setattr(compare, "suggestions", late)
    tab.get_by_role("tab", name="Models").click()
    box(tab, erased).uncheck()
    press(tab, other)
    tab.locator("#model-compare").click()
    expect(tab.locator("#erased-model input")).to_have_value(re.compile("^green frog · "))
    field(tab, "compare-steps").fill("1")
    assert field(tab, "prompts").input_value().startswith("a photo of the car")
    tab.locator("#generate").click()
    expect(tab.get_by_role("img", name="Before erasing: a photo of the frog")).to_be_visible()
    choose_model(tab, "#erased-model", "erased car")
    said = r"These images are of green frog · .* · MACE; generate again to see erased car · .* · MACE\."
    expect(tab.locator("#shown-model")).to_have_text(re.compile(said))
    choose_model(tab, "#erased-model", "green frog")
    expect(tab.locator("#shown-model")).to_have_text(re.compile(r"^\s*Erased model: green frog · .* · MACE\s*$"))
    tab.locator("#other-models label", has_text="erased car").locator("input").check()
    expect(tab.locator("#shown-model")).to_have_text(re.compile(said))
    late_by.append(1)
    suggested = tab.locator("#suggestions button")
    expect(suggested.filter(has_text="a photo of the frog")).to_have_count(1)
    choose_model(tab, "#erased-model", "erased car")
    field(tab, "prompts").fill("a boat")
    expect(suggested.filter(has_text="a photo of the car")).to_have_count(1)
    tab.wait_for_timeout(300)
    expect(field(tab, "prompts")).to_have_value("a boat")
    two = [suggested.nth(i).inner_text() for i in range(2)]
    for i in range(2):
        suggested.nth(i).click()
    expect(field(tab, "prompts")).to_have_value("\n".join(["a boat", *two]), timeout=1000)


def test_a_file_that_is_no_erasure_is_named_below_the_list(tab, studio):
    notes = tab.locator("#models .passed-over")
    expect(notes).to_be_hidden()
    bad = studio.output / "<b>letter.safetensors"
    bad.write_text("dear")
    try:
        tab.get_by_role("tab", name="Erase").click()
        tab.get_by_role("tab", name="Models").click()
        expect(notes).to_have_text("Not listed: <b>letter.safetensors is not an erasure made by MACE Studio.")
    finally:
        bad.unlink()
    tab.get_by_role("tab", name="Erase").click()
    tab.get_by_role("tab", name="Models").click()
    expect(notes).to_be_hidden()


def test_a_file_is_opened_renamed_and_deleted(tab, studio, erased, upload):
    offered = tab.locator("#evaluate-model")  # of a tab that is open no longer, and lists again at no sight
    tab.get_by_role("tab", name="Evaluate").click()
    expect(offered).to_be_visible()
    tab.get_by_role("tab", name="Models").click()
    data = studio.entry(erased).path.read_bytes()
    upload(tab, "#open-erasure", f"{erased}.safetensors", data)
    expect(tab.locator("#models-notice")).to_contain_text(f"There is an erased model “{erased}” already")
    upload(tab, "#open-erasure", "letter.safetensors", b"dear")
    expect(tab.locator("#models-notice")).to_contain_text("letter.safetensors is not an erasure")
    upload(tab, "#open-erasure", "brought.safetensors", data)
    expect(tab.locator("#details h2")).to_have_text("brought")
    expect(tab.locator("#models-notice")).not_to_contain_text("already")
    assert studio.entry("brought").path.read_bytes() == data
    expect(offered.locator("label", has_text="brought · ")).to_have_count(1)
    library.write_recipe(studio.entry("brought"))  # as the Erase tab does at the end of a run

    tab.locator("#rename").click()
    field(tab, "new-name").fill("../brought")
    tab.locator("#save-name").click()
    expect(tab.locator("#models-notice")).to_contain_text("New name: “../brought” cannot be a name")
    expect(tab.locator("#rename-panel .field-problem")).to_be_visible()
    field(tab, "new-name").fill("Mine (1)")
    tab.locator("#save-name").click()
    expect(tab.locator("#details h2")).to_have_text("Mine (1)")
    expect(tab.locator("#rename-panel")).to_be_hidden()
    expect(offered.locator("label", has_text="Mine (1) · ")).to_have_count(1)
    expect(offered.locator("label", has_text="brought · ")).to_have_count(0)
    assert studio.entry("Mine (1)").path.read_bytes() == data
    recipes = {path.name for path in (studio.output / "recipes").iterdir()}
    assert "Mine (1).json" in recipes and "brought.json" not in recipes

    tab.locator("#delete").click()
    tab.locator("#keep").click()
    expect(tab.locator("#delete-now")).to_be_hidden()
    tab.locator("#delete").click()
    tab.locator("#delete-now").click()
    expect(box(tab, "Mine (1)")).to_have_count(0)
    expect(offered.locator("label", has_text="Mine (1) · ")).to_have_count(0)
    expect(tab.locator("#details")).to_contain_text("Choose a model in the list")
    assert {"Mine (1)", "brought"}.isdisjoint(entry.name for entry in studio.entries())


def test_two_are_composed_and_the_result_is_at_hand_everywhere(tab, studio, erased, other, open_recipe, fast, guard):
    guard.allow_unloading()
    press(tab, erased)
    press(tab, other)
    expect(tab.locator("#compose-summary")).to_have_text("Erases car, frog · nothing to train")
    tab.locator("#compose").click()
    expect(tab.locator("#compose-progress")).to_contain_text("Finished")
    name = next(entry.name for entry in studio.entries() if len(entry.recipe.concepts) == 2)
    expect(tab.locator("#details h2")).to_have_text(name)
    expect(tab.locator("#details")).to_contain_text("Approximate: the LoRAs of “car”, “frog” were trained beside")

    tab.locator("#leave-out").get_by_label("car", exact=True).check()
    expect(tab.locator("#compose-summary")).to_have_text("Erases frog · nothing to train")
    tab.get_by_label("Also erase the concepts in the Erase tab’s form").check()
    expect(tab.locator("#compose-summary")).to_contain_text("Erases frog, car · 1 LoRA to train, 6 UNet forwards")
    field(tab, "compose-name").fill("Swapped")
    tab.locator("#compose").click()
    expect(tab.locator("#details h2")).to_contain_text("swapped-")
    tab.locator("#model-compare").click()
    expect(tab.locator("#erased-model input")).to_have_value(re.compile("^Swapped · "))

    tab.reload()
    tab.wait_for_timeout(4000)  # what a page asks when it is opened is answered, before there is a list to show it
    tab.get_by_role("tab", name="Models").click()
    expect(tab.locator("#compose-progress")).to_contain_text("Finished")
    tab.get_by_label("Also erase the concepts in the Erase tab’s form").check()
    expect(tab.locator("#details h2")).to_contain_text("swapped-")  # what was composed is chosen again
    tab.locator("#models").get_by_label(re.compile("^swapped-")).uncheck()
    press(tab, erased)
    expect(tab.locator("#compose-summary")).to_contain_text("“car” is to be added, and erased already")
    tab.locator("#compose").click()
    expect(tab.locator("#compose-notice")).to_contain_text("“car” is to be added, and erased already")


def test_an_export_is_downloaded(tab, studio, erased):
    tab.locator("#export").click()
    expect(tab.locator("#export-notice")).to_contain_text("Choose one erased model")
    press(tab, erased)
    choose(tab, "#export-format", "lora")
    field(tab, "export-rank").fill("two")
    tab.locator("#export").click()
    expect(tab.locator("#export-notice")).to_contain_text("Rank: “two” is not a number")
    field(tab, "export-rank").fill("2")
    tab.locator("#export").click()
    expect(tab.locator("#exported summary")).to_contain_text("of a layer’s difference is left out")
    tab.locator("#exported summary").click()
    expect(tab.locator("#exported dd").first).to_contain_text("rank 2, ")
    with tab.expect_download() as download:
        tab.locator("#export-file").click()
    with safe_open(download.value.path(), "numpy") as file:
        assert all(key.startswith("lora_unet_") for key in file.keys())  # noqa: SIM118 - not a mapping
    choose(tab, "#export-format", "diffusers")
    expect(tab.locator("#export-share")).to_be_hidden()
    tab.locator("#export").click()
    expect(tab.locator("#exported")).to_contain_text(f"{erased}-diffusers")
    with tab.expect_download() as download:
        tab.locator("#export-file").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert f"{erased}-diffusers/model_index.json" in archive.namelist() and archive.testzip() is None
    assert not [entry for entry in studio.entries() if "diffusers" in entry.name]
    tab.locator("#models").get_by_label(erased, exact=True).uncheck()
    press(tab, erased)
    said = f"Exports{erased}-diffusers, {erased}-lora.safetensors in {studio.output / 'exports'}"
    expect(tab.locator("#details .pairs")).to_contain_text(said)
    tab.locator("#rename").click()
    field(tab, "new-name").fill("Renamed car")
    tab.locator("#save-name").click()
    try:
        expect(tab.locator("#details h2")).to_have_text("Renamed car")
        expect(tab.locator("#details .pairs")).to_contain_text(said)
    finally:
        library.rename(studio.output, "Renamed car", erased)


def test_another_base_model_and_back(tab, studio, erased, tmp_path):
    row = tab.locator("#models tr", has=tab.get_by_label(erased, exact=True))
    expect(row.locator("small").first).to_have_text("MACE")
    fits = row.locator(".model-note")
    expect(fits).to_have_text("")
    field(tab, "base-source").fill(str(tmp_path / "nowhere"))
    field(tab, "base-source").press("Enter")
    tab.locator("#load-base").click()
    expect(tab.locator("#base-notice")).to_contain_text("There is no folder")
    expect(tab.locator("#base-now")).to_contain_text("built-in miniature")
    expect(tab.locator("#header .is-ready")).to_contain_text("built-in miniature")

    packing = studio.output / "exports" / f"{erased}-diffusers"
    if not packing.is_dir():
        press(tab, erased)
        tab.locator("#export").click()
        expect(tab.locator("#exported")).to_contain_text("-diffusers")
    field(tab, "base-source").fill(str(packing))
    field(tab, "base-source").press("Enter")
    try:
        tab.locator("#load-base").click()
        expect(tab.locator("#header .is-ready")).to_contain_text(packing.name)
        expect(fits).to_have_text("Made from another base model than the one that is loaded.")
    finally:
        choose(tab, "#base-source", "built-in miniature")
        tab.locator("#load-base").click()
        expect(tab.locator("#header .is-ready")).to_contain_text("built-in miniature")
    expect(fits).to_have_text("")
    assert library.sources(studio.output) == [str(packing)]


@pytest.mark.parametrize("context", [{"viewport": {"width": 390, "height": 844}, "has_touch": True}], indirect=True)
def test_the_tab_fits_a_phone(tab, erased):
    press(tab, erased)
    expect(tab.locator("#model-compare")).to_be_visible()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    top = {name: tab.locator(f"#{name}-card").bounding_box()["y"] for name in ("models", "details", "compose", "base")}
    assert list(top) == sorted(top, key=top.get)
