"""Recipes come back from JSON exactly as they were."""

import json
from dataclasses import fields, is_dataclass

from hypothesis import given
from hypothesis import strategies as st

from mace_studio.errors import RecipeError
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import Recipe

# The fields are read off the dataclasses, so that one added later is tested too. Text has any characters but control
# characters, which are refused.
st.register_type_strategy(str, st.text(st.characters(exclude_categories=["Cs", "Cc"])))
st.register_type_strategy(float, st.floats(allow_nan=False))
recipes = st.builds(Recipe, method=st.just("mace"), settings=st.from_type(MaceSettings))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([field.name for kind in (Recipe, MaceSettings) for field in fields(kind)])


def types_of(value: object) -> object:
    """The types of all values in a recipe, nested as the recipe is."""
    if is_dataclass(value):
        return [types_of(getattr(value, field.name)) for field in fields(value)]
    return [types_of(item) for item in value] if isinstance(value, tuple) else type(value)


@given(recipes)
def test_a_recipe_comes_back_exactly(recipe):
    back = Recipe.from_json(recipe.to_json())
    assert back == recipe
    assert types_of(back) == types_of(recipe)
    assert back.to_json() == recipe.to_json()
    assert back.digest() == recipe.digest()


@given(recipes, recipes)
def test_different_recipes_are_written_differently(first, second):
    assert (first == second) == (first.to_json() == second.to_json())


@given(recipes)
def test_checking_either_passes_or_names_a_field(recipe):
    try:
        assert recipe.check() is recipe
    except RecipeError as error:
        assert error.field
        assert str(error).startswith(f"{error.field}: ")


@given(JSON | st.dictionaries(names, JSON, max_size=4))
def test_any_json_is_a_recipe_or_refused_in_words(data):
    try:
        recipe = Recipe.from_json(json.dumps(data))
    except RecipeError as error:
        assert str(error)
    else:
        assert types_of(recipe) == types_of(Recipe.from_json(recipe.to_json()))
