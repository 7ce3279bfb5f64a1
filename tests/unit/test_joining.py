"""Several recipes to one: pure data, no model."""

from dataclasses import replace

import pytest

from mace_studio.errors import RecipeError
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Concept, Recipe, joined
from mace_studio.settings import KeepWeights, LoraSettings

CAT = Recipe(concepts=(Concept("cat", "forest", synonyms=("kitty",)),), preserve=("dog", "Ship"), name="No cats")
SHIP = Recipe(
    concepts=(Concept("ship", "ground"),),
    preserve=("cat", "deer", "DOG"),
    settings=MaceSettings(fuse=KeepWeights(general=1.0)),
)


def test_concepts_and_keep_lists_join_and_the_settings_are_the_firsts():
    both = joined([CAT, SHIP])
    assert both.concepts == (*CAT.concepts, *SHIP.concepts)
    assert both.preserve == ("dog", "deer")  # neither what is erased nor what differs in case only
    assert both.settings.fuse == CAT.settings.fuse and joined([SHIP, CAT]).settings.fuse == SHIP.settings.fuse
    assert both.name == "" and both.title() == "cat, ship"
    assert joined([CAT, SHIP], name=" Both ").title() == "Both"


def test_what_changes_nothing_is_the_very_recipe():
    assert joined([CAT]) == CAT
    assert joined([CAT], name="Mine") == replace(CAT, name="Mine")
    assert joined([joined([CAT], add=SHIP)], remove=["ship"]).concepts == CAT.concepts


def test_adding_and_removing():
    assert joined([CAT], add=SHIP) == joined([CAT, SHIP])
    assert joined([CAT, SHIP], remove=[" Cat "]).concepts == SHIP.concepts
    swapped = joined([CAT], remove=["cat"], add=SHIP)
    assert swapped.concepts == SHIP.concepts and swapped.preserve == ("dog", "cat", "deer")


@pytest.mark.parametrize(
    ("recipes", "options", "field", "said"),
    [
        ([], {}, "models", "at least one"),
        ([CAT, replace(SHIP, concepts=(Concept("Cat ", "sky"),))], {}, "models", "“Cat ” is erased in two"),
        ([CAT], {"add": replace(CAT, preserve=())}, "add", "“cat” is to be added, and erased already"),
        ([CAT], {"add": Recipe()}, "concepts", "at least one concept"),
        ([CAT], {"remove": ["dog"]}, "remove", "“dog” is not among what is erased: cat."),
        ([CAT], {"remove": ["cat"]}, "remove", "Nothing would be left"),
        ([CAT], {"remove": [""]}, "remove", "not among"),
        (
            [replace(CAT, concepts=tuple(Concept(f"{i}-{j}", "x") for j in range(5001))) for i in range(2)],
            {},
            "concepts",
            "at most 10000",
        ),
    ],
)
def test_what_cannot_be_joined_is_a_sentence_at_its_field(recipes, options, field, said):
    with pytest.raises(RecipeError, match=said) as error:
        joined(recipes, **options)
    assert error.value.field == field


def test_the_added_recipe_is_checked():
    with pytest.raises(RecipeError) as error:
        joined([CAT], add=SHIP.with_settings(lora=LoraSettings(rank=0)))
    assert error.value.field == "lora.rank"
