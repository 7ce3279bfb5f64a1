"""The page's second edition: first steps, glossary, suggestions, grids of several models, spill-over, accessibility."""

import json
import re
import time
from dataclasses import replace

import pytest
from PIL import Image

from mace_studio.runtime import library, result_files, tasks
from mace_studio.ui.cards import beyond
from mace_studio.ui.components import glossary, verdict
from mace_studio.ui.tabs import compare
from tests.e2e.axe import PHONE, faults, faults_at_both_sizes
from tests.steps import choose_model, field

sync_api = pytest.importorskip("playwright.sync_api")
expect = sync_api.expect
expect.set_options(timeout=60_000)

pytestmark = pytest.mark.browser

TABS = ("Erase", "Compare", "Attention", "Evaluate", "Models")
OVER_CONTROLS = """() => {
  const shown = (node) => node.checkVisibility({ visibilityProperty: true });
  const boxes = (nodes) =>
    [...document.querySelectorAll(nodes)].filter(shown).map((node) => [node, node.getBoundingClientRect()]);
  const controls = boxes("input, select, textarea, [role=combobox], .wrap:has(> .wrap-inner)");
  return boxes(".term").flatMap(([term, a]) => controls.filter(([, b]) =>
    Math.min(a.right, b.right) - Math.max(a.left, b.left) > 0.5
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 0.5
  ).map(([control]) => `${term.getAttribute("aria-label")} ${control.outerHTML.slice(0, 80)}`));
}"""


# Rows with a button of two lines.
WRAPPED = """() => [...document.querySelectorAll(".run-buttons")].filter((row) =>
  [...row.querySelectorAll("button")].some((button) => button.offsetHeight > 48)).map((row) => row.id)"""


@pytest.fixture(scope="module")
def gentle(studio, fast):
    """A second erased model of the same concept."""
    return studio.erase(replace(fast, seed=98, name="gentle car", preserve=("ship", "truck"))).wait().name


def cell(page, row, column):
    return page.locator(f'#concepts [data-cell="{row}-{column}"]')


@pytest.fixture(autouse=True)
def own_model(studio):
    """Tokens are counted by the model that this process keeps, which may be that of another test's studio."""
    tasks.process_model(studio.place)


def test_first_steps_words_and_suggestions(page):
    steps = page.get_by_role("region", name="First steps")
    expect(steps).to_be_hidden()
    expect(page.get_by_label("Preset", exact=True)).to_have_css("appearance", "auto")  # with its arrow
    page.get_by_role("button", name="Simple").click()
    steps.get_by_role("button", name="Name what to erase").click()
    expect(cell(page, 0, 0)).to_be_focused()
    steps.get_by_role("button", name="Got it").click()
    expect(steps).to_be_hidden()
    assert page.evaluate("localStorage['mace-first-run']") == "done"
    page.get_by_role("button", name="Simple").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")  # Expert

    page.get_by_role("button", name="What is λ1?").click()
    sought = page.locator(".glossary .is-sought")
    expect(sought.locator("dt")).to_have_text("λ₁")
    expect(sought.locator("dd")).to_have_text(dict(glossary.entries())["λ₁"])
    expect(sought).to_be_in_viewport()
    page.keyboard.press("Escape")
    expect(page.locator(".glossary")).to_be_hidden()
    page.keyboard.press("ArrowRight")  # which is for words in lists, and does nothing here
    for box, word in (
        (page.get_by_label("λ3", exact=True), "λ₃, λ₃ in the fusion"),
        (field(page, "lora-steps"), "LoRA, LoRA steps"),
    ):
        box.focus()
        page.keyboard.press("F1")
        expect(sought.locator("dt")).to_have_text(word)
        page.keyboard.press("Escape")
        expect(box).to_be_focused()
        expect(box).to_have_accessible_description(re.compile("F1 says what this is"))
    expect(page.get_by_label("λ1", exact=True)).to_have_accessible_description(
        re.compile("How much everyday scenes must stay, in Refine")
    )

    expect(page.locator("#concept-tokens")).to_contain_text(re.compile(r"\d of 32 tokens"))
    cell(page, 0, 1).fill("")
    page.locator("#suggested-mappings").get_by_role("button", name="car → street").click()
    expect(cell(page, 0, 1)).to_have_value("street")
    expect(page.locator("#suggested-mappings button")).to_have_count(0)
    page.locator("#suggested-neighbours").get_by_role("button", name="+ truck").click()
    expect(page.locator("#preserve li")).to_have_text([re.compile("ship"), re.compile("truck")])
    expect(page.locator("#suggested-neighbours").get_by_role("button", name="+ truck")).to_have_count(0)


def test_several_models_stand_in_one_grid_and_their_recipes_are_compared(page, erased, gentle, studio, monkeypatch):
    page.get_by_role("tab", name="Compare").click()
    choose_model(page, "#erased-model", "erased car")
    expect(page.locator("#other-models label", has_text="erased car ·")).to_have_count(0)  # it is not beside itself
    page.locator("#other-models label", has_text="gentle car").locator("input").check()
    field(page, "prompts").fill("a photo of the car")
    expect(page.locator("#prompts-tokens")).to_have_text(re.compile(r"\d of 32 tokens"))
    field(page, "prompts").fill("a photo of the car" + " and a ship" * 40)
    expect(page.locator("#prompts-tokens")).to_contain_text("Not read, beyond 32 tokens: “")
    field(page, "prompts").fill("a photo of the car")
    field(page, "seeds").fill("0-2")
    field(page, "compare-steps").fill("1")
    with monkeypatch.context() as patch:
        patch.setattr(compare, "OTHERS", 0)
        page.locator("#generate").click()
        too_many = page.locator("#other-models .field-problem")
        expect(too_many).to_have_text("Beside it: 1 erased model is checked; leave at most 0.")
    beside = page.locator("#other-models").get_by_role("checkbox", name=re.compile("^gentle car · .* · MACE$"))
    assert beside.locator("..").bounding_box()["height"] >= 24
    beside.uncheck()
    expect(too_many).to_have_count(0)
    beside.check()
    page.locator("#generate").click()
    expect(page.locator("#pairs img")).to_have_count(9)
    called = [re.compile(f"^{title} · .* · MACE$") for title in ("erased car", "gentle car")]
    expect(page.locator("#pairs tbody th b")).to_have_text(["original", *called])
    marked = page.locator("#pairs [aria-pressed=true]")
    expect(marked).to_have_accessible_name(re.compile("^a photo of the car, seed 0, erased car · "))
    page.get_by_role("button", name="a photo of the car, seed 1, original").click()
    expect(marked).to_have_accessible_name("a photo of the car, seed 1, original")
    expect(page.locator("#shown-model")).to_contain_text("All images are of: erased car · ")
    expect(page.locator("#figures")).to_contain_text(re.compile(r"Seed\s*1"))
    expect(page.locator("#pairs thead th")).to_have_text(["", "seed 0", "seed 1", "seed 2"])
    real, late_by = result_files.write_pair, [1.5]

    def late(*args):
        time.sleep(late_by.pop() if late_by else 0)  # the first press is answered after the second one comes
        return real(*args)

    monkeypatch.setattr(result_files, "write_pair", late)
    page.get_by_role("button", name="a photo of the car, seed 0, original").click()
    page.get_by_role("button", name="a photo of the car, seed 2, gentle car · ").click()  # before that is answered
    expect(page.locator("#figures")).to_contain_text(
        re.compile(r"Erased model\s*gentle car · .*\s*Prompt.*\s*Seed\s*2")
    )
    with page.expect_download() as download:
        page.locator("#sheet-file").click()
    with Image.open(download.value.path()) as sheet:
        about = json.loads(sheet.text["mace_studio"])
    assert about["seeds"] == [0, 1, 2] and list(about["recipes"]) == [erased, gentle]

    after = page.get_by_role("img", name="After erasing: a photo of the car")
    sides = page.locator("#sides b").filter(visible=True)
    expect(sides).to_have_text(["Before", "After"])
    page.get_by_role("button", name="Side by side").click()
    expect(after).to_have_css("clip-path", "none")
    width = after.bounding_box()["width"]
    page.get_by_role("button", name="2 ×").click()
    assert after.bounding_box()["width"] == pytest.approx(2 * width, rel=0.05)
    page.get_by_role("button", name="Flicker").click()
    expect(page.locator(".divider")).to_have_class(re.compile("shows-before"))
    expect(sides).to_have_text(["Before"])

    page.get_by_role("tab", name="Models").click()
    for name in (erased, gentle):
        page.locator("#models").get_by_label(name, exact=True).check()
    expect(page.locator(".differences tbody tr")).to_have_text(
        ["Keep unchangednothing moretruck", "Seed9998", "Nameerased cargentle car"]
    )
    page.locator("#models").get_by_label(erased, exact=True).uncheck()
    expect(page.locator("#details")).to_contain_text("built-in miniature (")
    expect(page.locator("#details")).to_contain_text(re.compile(f"Pairs and sheets\\d+ in {studio.output / 'pairs'}"))
    page.locator("#model-recipe").click()
    expect(page.locator("#preserve li")).to_have_text([re.compile("ship"), re.compile("truck")])
    expect(page.locator("#erase")).to_be_visible()


def test_tokens_of_all_that_is_typed_are_counted(page):
    def too_long(counter, text):
        expect(page.locator(counter)).to_contain_text(re.compile(r"\d{2,3} of 32 tokens"))
        expect(page.locator(counter)).to_contain_text("Not read, beyond 32 tokens: “")
        expect(page.locator(counter)).to_contain_text(text)

    expect(page.locator("#preserve-tokens")).to_have_text("7 of 32 tokens")  # start, a photo of the ship, end
    page.get_by_label("Phrases to keep", exact=True).fill("lion " * 29 + "whale")
    page.keyboard.press("Enter")
    too_long("#preserve-tokens", "the longest prompt")
    too_long("#preserve-tokens", "whale”")
    long = "a photo of the xylophone" + " and a ship" * 9 + " and a whale"
    for tab, elem_ids in {
        "Erase": ["preview-prompt"],
        "Compare": ["prompts", "negative"],
        "Attention": ["attention-prompt", "attention-negative"],
    }.items():
        page.get_by_role("tab", name=tab).click()
        for elem_id in elem_ids:
            field(page, elem_id).fill(long)
            too_long(f"#{elem_id}-tokens", "whale”")
            expect(page.locator(f"#{elem_id}-tokens")).to_contain_text("The loaded model has not learned “xylophone”")
    field(page, "attention-negative").fill("")
    expect(page.locator("#attention-negative-tokens")).to_have_text("")


def test_what_changed_beyond_the_list_is_kept_and_erased_again(page, erased, studio, monkeypatch):
    monkeypatch.setattr(beyond, "WORDS", 2)
    monkeypatch.setattr(beyond, "PAIRS", 2)
    monkeypatch.setattr(verdict, "LOST", -2.0)  # so that every word counts as changed
    cell(page, 0, 1).fill(" ")
    page.locator("#queue-add").click()
    expect(page.locator("#queue-notice")).to_contain_text("Say what")
    page.get_by_role("tab", name="Evaluate").click()
    boxes = page.locator("#evaluate-model label")
    expect(boxes.locator("input:checked")).to_have_count(1)  # the newest
    for box in boxes.locator("input:checked").all():
        box.uncheck()
    page.get_by_role("tab", name="Models").click()
    page.get_by_role("tab", name="Evaluate").click()
    page.wait_for_timeout(500)
    expect(boxes.locator("input:checked")).to_have_count(0)  # nor does the list check one again
    boxes.filter(has_text="erased car").locator("input").check()
    field(page, "evaluate-judge").fill("/nowhere/clip")
    page.locator("#look-beyond").click()
    expect(page.locator("#beyond-notice")).to_contain_text("The judge /nowhere/clip could not be loaded")
    field(page, "evaluate-judge").fill("")
    page.locator("#look-beyond").click()
    expect(page.locator("#beyond figcaption")).to_have_count(2)
    expect(page.locator("#beyond .hint")).to_contain_text("Neighbours of what erased car · ")
    words = page.locator("#beyond figcaption b").all_inner_texts()
    assert "car" not in words and "ship" not in words
    page.locator("#keep-and-erase").click()
    expect(page.locator("#preserve li")).to_have_count(3)
    expect(page.locator("#queue-notice")).not_to_contain_text("Say what")
    expect(page.locator(".field-problem, [aria-invalid=true]")).to_have_count(0)
    expect(page.locator("#erase-progress")).to_contain_text("Finished")
    made = studio.entries()[0]
    assert {"ship", *words} == set(made.recipe.preserve)
    library.delete(studio.output, made.name)  # other tests choose a model by this title


def test_no_tab_has_a_serious_fault_of_accessibility(page, erased):
    found = {}
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        page.wait_for_function("document.querySelectorAll('.card').length > 0")
        found[tab] = faults(page)
        assert page.evaluate(WRAPPED) == [], tab
    page.get_by_role("tab", name="Erase").click()
    page.get_by_role("button", name="Simple").click()
    page.set_viewport_size(PHONE)
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        found[f"{tab}, Simple"] = faults(page, ["light"])
        assert page.evaluate(WRAPPED) == [], tab
    assert not any(found.values()), found


def test_no_tab_with_results_has_a_serious_fault_of_accessibility(page, erased, fast, open_recipe):
    found = {}

    def look(tab):
        found[tab] = faults_at_both_sizes(page)

    open_recipe(page, replace(fast, seed=99))  # that of `erased`, whose images and LoRA are in the cache
    page.locator("#erase").click()
    expect(page.locator("#outcome .verdict")).to_be_visible()
    page.locator("#paste-list").click()
    field(page, "pasted").fill("Van Gogh -> an artist\nwhale, sea")
    expect(page.get_by_label("Several concepts")).to_be_visible()
    page.get_by_label("Several concepts").check()
    expect(page.locator("#paste-preview li")).to_have_count(3)
    look("Erase")
    page.locator("#close-paste").click()

    page.locator("#to-compare").click()
    expect(field(page, "prompts")).not_to_have_value("")
    field(page, "seeds").fill("0-1")
    field(page, "compare-steps").fill("1")
    page.locator("#generate").click()
    expect(page.locator("#pairs img")).to_have_count(4)
    expect(page.locator("#sheet-file")).to_be_enabled()
    look("Compare")

    page.get_by_role("tab", name="Attention").click()
    expect(field(page, "attention-prompt")).to_have_value("a photo of the car")
    field(page, "attention-steps").fill("2")
    page.locator("#read").click()
    expect(page.locator("#maps-file-0")).to_be_enabled()
    look("Attention")

    page.get_by_role("tab", name="Models").click()
    page.locator("#models").get_by_label(erased, exact=True).check()
    expect(page.locator("#details")).to_contain_text("built-in miniature (")
    page.locator("#rename").click()
    expect(field(page, "new-name")).to_have_value(erased)
    look("Models")
    assert not any(found.values()), found


@pytest.mark.parametrize("context", [{"viewport": {"width": width, "height": height}}
                                     for width, height in ((1440, 900), (390, 844))], indirect=True)  # fmt: skip
def test_no_question_mark_lies_over_a_control(page, erased):
    page.get_by_role("button", name="Advanced").click()
    expect(page.get_by_role("button", name="What is Method?")).to_be_visible()
    for tab in TABS:
        page.get_by_role("tab", name=tab).click()
        if tab == "Models":
            page.locator("#models").get_by_label(erased, exact=True).check()
        expect(page.locator(".term:visible")).not_to_have_count(0)  # they come a moment after what they explain
        assert page.evaluate(OVER_CONTROLS) == [], tab
