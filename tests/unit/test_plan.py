"""What an evaluation asks: prompts, seeds and counts, worked out by hand."""

from dataclasses import replace

import pytest

from mace_studio import prompts
from mace_studio.errors import RecipeError
from mace_studio.evaluation.plan import ERASED, KEPT, SYNONYM, make_plan
from mace_studio.presets import known_kinds
from mace_studio.recipe import Concept, Recipe

RECIPE = Recipe(concepts=(Concept("cat", "forest", synonyms=("kitty", "feline")),), preserve=("dog", "ship"))
PEOPLE = Recipe(concepts=(Concept("Ada Finch", "a person", "celebrity"),), preserve=("Ada Wren",))
MIXED = Recipe(
    concepts=(Concept("Ada Finch", "a person", "celebrity"), Concept("Nora Neonova", "art", "style")),
    preserve=("Lena Strich",),
)


def test_a_plan_counts_what_it_generates():
    plan = make_plan(RECIPE, "quick", captions=[f"caption {i}" for i in range(100)])
    assert [(p.role, p.word, p.label) for p in plan.probes] == [
        (ERASED, "cat", "cat"),
        (SYNONYM, "kitty", "cat"),
        (SYNONYM, "feline", "cat"),
        (KEPT, "dog", "dog"),
        (KEPT, "ship", "ship"),
    ]
    assert plan.seeds == tuple(range(10_000, 10_008)) and len(plan.captions) == 48
    assert plan.images == 2 * (5 * 8 + 48) and plan.forwards == plan.images * 20 * 2
    people = make_plan(PEOPLE, "full")
    assert len(people.probes) == 10 and len(people.seeds) == 12 and people.images == 2 * 120
    assert "5 prompts with 8 seeds and 48 general captions" in plan.summary()
    with pytest.raises(RecipeError, match="use one of quick, full"):
        make_plan(RECIPE, "huge")


def test_of_long_lists_the_quick_plan_asks_for_24_words_and_all_are_answers():
    names = [f"Person {i}" for i in range(100)]
    recipe = Recipe(
        concepts=[Concept(name, "a person", "celebrity", synonyms=[f"{name} alias"]) for name in names],
        preserve=[f"Other {i}" for i in range(30)],
    )
    quick, full = make_plan(recipe, "quick"), make_plan(recipe, "full")
    asked = {role: [p.word for p in quick.probes if p.role == role][::5] for role in (ERASED, SYNONYM, KEPT)}
    assert [len(words) for words in asked.values()] == [24, 24, 24]
    assert asked[ERASED][:3] == ["Person 0", "Person 4", "Person 8"] and asked[ERASED][-1] == "Person 95"
    assert asked[KEPT][:5] == ["Other 0", "Other 1", "Other 2", "Other 3", "Other 5"]
    assert sorted(quick.labels) == sorted(full.labels) == sorted([*names, *recipe.preserve])
    assert quick.parts(32)[0].labels != quick.labels and not full.not_asked and len(full.probes) == 5 * 230
    assert quick.summary().startswith("82 more words of the lists as answers only, 360 prompts with 2 seeds")
    assert "more words" not in full.summary()


def test_a_kept_word_that_the_presets_know_is_asked_for_as_that():
    recipe = replace(MIXED, preserve=("lena strich", "Ada Frost", "John Wayne", "Nobody"))
    plan = make_plan(recipe, "quick", kinds=known_kinds())
    asked = {(probe.word, probe.kind) for probe in plan.probes if probe.role == KEPT}
    known = {("lena strich", "style"), ("Ada Frost", "celebrity"), ("John Wayne", "celebrity")}
    assert asked == known | {("Nobody", "celebrity"), ("Nobody", "style")} and plan.mixed
    assert not make_plan(replace(recipe, preserve=("Ada Frost",)), "quick", kinds=known_kinds()).mixed


def test_the_fewest_images_are_those_of_the_kind_with_the_fewest_prompts():
    recipe = replace(MIXED, concepts=(*MIXED.concepts, Concept("cat", "forest")))
    assert len(make_plan(recipe, "quick").seeds) == 8


def test_a_kept_word_that_is_written_twice_is_one_answer():
    """Two labels that are the same to a judge would share its probability between them."""
    twice = replace(
        RECIPE, preserve=("dog", "Dog ", "ship", "Zo\u00e9", "Zoe\u0301", "dog", "grand  piano", "grand piano")
    )
    assert twice.kept == ("dog", "ship", "Zo\u00e9", "grand  piano")
    assert make_plan(twice, "quick").labels == ("cat", *twice.kept)
    assert make_plan(twice, "quick") == make_plan(replace(RECIPE, preserve=twice.kept), "quick")
    assert list(prompts.preserved(twice)) == list(prompts.preserved(replace(RECIPE, preserve=twice.kept)))
