"""What a linear map can hold of a recipe: figures of the built-in model, and what is advised where."""

import math
from dataclasses import replace

import pytest

from mace_studio.analysis import capacity
from mace_studio.analysis.capacity import Capacity
from mace_studio.core import ridge
from mace_studio.methods.mace import refine
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime import estimate
from mace_studio.sd import text
from mace_studio.settings import KeepWeights
from tests.steps import cancelled, untouched

KEEP = KeepWeights(preserve=1.0, identity=1.0)
PEOPLE = Recipe(
    concepts=[Concept(name, "a person", "celebrity") for name in ("Ada Finch", "Bruno Marlow", "Clara Quill")],
    preserve=["Ada Wren", "Bruno Hale"],
).with_settings(refine=KEEP, fuse=KEEP)
ROOMY = Capacity(width=100, erased=3.0, kept=4.0, shared=0.1, condition=1e3, looked_at=(3, 4))


def test_a_few_people_take_few_directions_and_the_condition_is_about_that_of_the_run(model):
    with untouched(model):
        found = capacity.measure(model, PEOPLE, None)
    assert found.width == model.width and found.looked_at == (3, 2)
    # Vectors about their common mean: no more directions than there are vectors.
    assert 1 < found.erased <= 3 and 1 <= found.kept <= 2 and 0 <= found.shared <= 1
    sums = refine.gather(model, PEOPLE, None)
    # One template for all of them: the same to an order of magnitude.
    assert math.log10(found.condition) == pytest.approx(math.log10(refine.solve(sums, KEEP).condition), abs=1)


def test_a_method_without_keep_weights_has_no_condition(model):
    assert capacity.measure(model, replace(PEOPLE, method="uce", settings=None), None).condition is None


def test_it_is_cancelled_after_one_batch_of_sentences(model):
    many = replace(PEOPLE, preserve=[f"Ada Wren {i}" for i in range(2 * text.BATCH)])
    with untouched(model), cancelled(lambda event: event.step > 3) as progress:
        capacity.measure(model, many, None, progress)
    assert {event.stage for event in progress.seen} == {"encode"}
    assert [(event.step, event.total) for event in progress.seen] == [(3, 67), (35, 67)]


def test_too_little_to_keep_is_an_infinite_condition(model):
    # One prompt of 32 positions cannot span 320 directions.
    bare = replace(PEOPLE, concepts=PEOPLE.concepts[:1], preserve=()).with_settings(refine=KeepWeights(preserve=1.0))
    found = capacity.measure(model, bare, None)
    assert found.condition == math.inf and found.kept == found.shared == 0
    assert any("identity weight" in sentence for sentence in found.advice())


def test_a_long_list_is_looked_at_in_even_steps(monkeypatch):
    monkeypatch.setattr(capacity, "SAMPLE", 4)
    assert capacity.spread(range(10)) == [0, 2, 5, 7]
    assert capacity.spread("abc") == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"erased": 50.0, "kept": 31.0}, "81 of the map’s 100 directions"),
        ({"shared": 0.6}, "60% of what tells the kept phrases apart"),
        ({"condition": 1e11}, "badly conditioned"),
    ],
)
def test_advice_is_given_where_it_is_needed(change, said):
    assert ROOMY.advice() == []
    (sentence,) = replace(ROOMY, **change).advice()
    assert said in sentence
    assert said in replace(ROOMY, **change).summary()


def test_the_estimate_says_where_there_are_more_phrases_than_directions(tmp_path):
    assert "5 phrases" not in estimate.estimate(PEOPLE, 1, None, tmp_path, 5).summary()
    crowded = replace(PEOPLE, preserve=[*PEOPLE.preserve, "Felix Wren"])
    assert "6 phrases in a map of width 5" in estimate.estimate(crowded, 1, None, tmp_path, 5).summary()
    assert not estimate.estimate(crowded, 1, None, tmp_path).crowded


def test_the_factorised_matrix_is_the_one_that_is_expected(model):
    sums = refine.gather(model, PEOPLE, None)
    keep = ridge.keep_gram(KEEP, None, sums.preserve, model.width)
    assert capacity.condition_number(sums.concepts.gram_DD + keep.total_DD) == pytest.approx(
        refine.solve(sums, KEEP).condition, rel=1e-6
    )
