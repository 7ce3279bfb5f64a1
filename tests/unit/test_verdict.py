"""What the page says of few images, of a grid of several models, and in its glossary."""

import re
from dataclasses import replace
from types import SimpleNamespace
from unicodedata import normalize

import pytest
from PIL import Image

from mace_studio.evaluation.plan import ERASED, KEPT, NEIGHBOUR, SYNONYM
from mace_studio.evaluation.report import ALL, Row, Tally
from mace_studio.methods import METHODS
from mace_studio.recipe import Concept, ImageRequest, Recipe
from mace_studio.ui.cards import beyond
from mace_studio.ui.components import glossary, pair_grid, progress, text, verdict

IMAGE = Image.new("RGB", (2, 2))


def tally(correct, count, probability):
    return Tally(correct=correct, count=count, top1_interval=(0, 1), probability=probability, interval=(0, 1))


def row(role, word, before, after, count=2):
    sides = [tally(round(share * count), count, share) for share in (before, after)]
    return Row(
        role=role, word=word, kind="object", before=sides[0], after=sides[1], change=1.0, feature_change=0.0, clip={},
        images=((IMAGE, IMAGE),),
    )  # fmt: skip


ROWS = [
    row(ERASED, "cat", 1.0, 0.0), row(ERASED, ALL, 1.0, 0.0), row(SYNONYM, "kitty", 1.0, 0.5),
    row(KEPT, "dog", 1.0, 1.0), row(KEPT, "<b>", 0.5, 0.5), row(NEIGHBOUR, "lion", 1.0, 0.5),
    row(NEIGHBOUR, "cow", 1.0, 0.8, count=10),
    row(NEIGHBOUR, "tiger", 1.0, 0.0),
]  # fmt: skip


def test_the_verdict_counts_and_names_what_changed_beyond_the_list():
    said = re.sub("<[^>]*>", "", verdict.verdict(ROWS))
    assert said == (
        "Of a few images the judge sees cat in 0 of 2 (2 before) · synonyms in 1 of 2 (2 before) · "
        "kept in 3 of 4 (3 before) · "
        "not on your list: tiger, lion changed"
    )
    assert [one.word for one in verdict.changed(ROWS)] == ["tiger", "lion"]  # the cow lost less than a quarter
    assert "1 looked at, none changed" in verdict.verdict([row(NEIGHBOUR, "cow", 1.0, 0.8)])
    assert verdict.verdict([]) == verdict.NOTHING
    concepts = (Concept("cat", "grass", synonyms=("kitty",)), Concept("owl", "sky"), Concept("hen", "sky"))
    some = Recipe(concepts=concepts, preserve=("dog", "<b>", "cow"))
    assert verdict.verdict(ROWS, some).endswith(" · 1 of 3 concepts, 2 of 3 kept phrases looked at</p>")
    assert "looked at" not in verdict.verdict(ROWS, replace(some, concepts=concepts[:1], preserve=("dog", "<b>")))
    assert re.sub("<[^>]*>", "", verdict.probabilities(ROWS)) == (
        "The judge’s probability: cat 0 % (100 % before) · synonyms 50 % (100 % before) · kept 75 % (75 % before) · "
        "not on your list: tiger, lion changed"
    )


@pytest.mark.parametrize(
    ("after", "kept", "method", "said"),
    [
        (0.4, 0.8, "mace", ""),
        (0.5, 0.8, "mace", "still seen. Move the strength towards Thorough"),
        (1.0, 0.1, "uce", "still seen. Give the method stronger settings, or choose another, and erase again."),
        (0.0, 0.75, "mace", "Kept phrases suffer. Move the strength towards Gentle"),
        (0.0, 0.0, "uce", "Kept phrases suffer. Give the method weaker settings"),
    ],
)
def test_it_is_told_what_to_do_where_an_erasure_did_too_little_or_too_much(after, kept, method, said):
    recipe = Recipe(concepts=(Concept("cat", "grass"),), method=method, settings=METHODS[method].settings())
    told = verdict.advice([row(ERASED, "cat", 1.0, after), row(KEPT, "dog", 1.0, kept)], recipe)
    assert said in told and bool(said) == bool(told)
    assert verdict.advice([row(ERASED, "cat", 0.0, 0.0)], recipe) == ""  # it was not seen before either


def test_the_images_are_of_one_word_of_each_role_and_of_what_changed_most():
    shown = verdict.figures(ROWS)
    assert re.findall(r"<figcaption>(.*?)</figcaption>", shown) == [
        "Erased: cat · seed 10000", "Synonym: kitty · seed 10000", "Kept: dog · seed 10000",
        "Not on your list: tiger · seed 10000",
    ]  # fmt: skip
    assert "judge: 100 % → 0 %; should fall" in shown and "judge: 100 % → 100 %; should stay" in shown
    ranked = verdict.ranks([one for one in ROWS if one.role == NEIGHBOUR])
    assert ranked.count("· seed 10000</figcaption>") == 3
    several = replace(row(NEIGHBOUR, "cow", 1.0, 0.8), images=((IMAGE, IMAGE),) * 9)
    assert "· seeds 10000 to 10003</figcaption>" in verdict.ranks([several])
    assert [verdict.seeds(several, forms) for forms in (1, 3, 5)] == [
        "seeds 10000 to 10003", "seeds 10000 to 10001", "seed 10000",
    ]  # fmt: skip
    assert re.findall(r"<b>(.*?)</b> (changed|as before)", ranked) == [
        ("tiger", "changed"), ("lion", "changed"), ("cow", "as before"),
    ]  # fmt: skip


def test_neighbours_are_judged_by_the_clip_that_is_named_or_stands_beside_the_model(monkeypatch):
    asked = []
    studio = SimpleNamespace(
        source="model", vocabulary=lambda: None, check_judge=asked.append, sample=lambda *args, **own: own["judge"]
    )
    card = SimpleNamespace(studio=studio)
    monkeypatch.setattr(beyond.vocabulary, "clip_beside", lambda source: f"clip beside {source}")
    assert beyond.BeyondCard.on_look(card, ["cat"], " a/clip ") == "a/clip"
    assert beyond.BeyondCard.on_look(card, ["cat"], "") == "clip beside model"
    assert asked == ["a/clip", ""]
    studio.vocabulary = lambda: "what the model's own judge knows"
    assert beyond.BeyondCard.on_look(card, ["cat"], "") is None


def test_several_models_have_a_row_each_below_the_original():
    request = ImageRequest(("a", "b"), (5, 6))
    pairs = [
        SimpleNamespace(prompt=p, seed=s, before=IMAGE, after=IMAGE, erasure=i)
        for p, s in request.pairs()
        for i in (0, 1)
    ][:3]
    rows = pair_grid.cells("job", request, pairs, ["A", "B"])["rows"]
    assert [(r["prompt"], r["model"], r["picks"]) for r in rows[:3]] == [
        ("a", "original", [0, 2]), ("a", "A", [0, 2]), ("a", "B", [1, 3]),
    ]  # fmt: skip
    assert [[bool(url) for url in r["images"]] for r in rows[:4]] == [
        [True, True],
        [True, True],
        [True, False],
        [False] * 2,
    ]
    alone = pair_grid.cells("job", request, pairs[::2], ["A"])["rows"]
    assert [(r["model"], r["picks"]) for r in alone] == [("", [0, 1]), ("", [2, 3])]


@pytest.mark.parametrize(
    "word", ["λ1", "λ2", "λ3", "Identity weight", "t₁", "γ", "condition number", "H_o", "KID", "half", "share kept"]
)
def test_the_glossary_has_what_the_page_names(word):
    known = {normalize("NFKC", one).strip().lower() for words, _ in glossary.entries() for one in words.split(",")}
    assert normalize("NFKC", word).lower() in known
    assert all(meaning and "](" not in meaning and "`" not in meaning for _, meaning in glossary.entries())


def test_figures_are_explained_in_a_line_each():
    lines = text.explained(["Method", "H_o, top-1", "H_o, mean probability", "λ1 · λ2 · λ3", "KID"])
    assert [line.partition(":")[0] for line in lines.split('<p class="hint">')[1:]] == ["H_o", "λ1, λ2", "KID"]
    assert "How many times rounding errors can grow" in progress.condition("Refine 1.0e+03")
    assert text.explained(["Seed"]) == ""
