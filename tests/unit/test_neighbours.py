"""What is suggested for a concept: mappings and neighbours."""

from mace_studio import neighbours
from mace_studio.evaluation.plan import ERASED, KEPT, NEIGHBOUR, SYNONYM, make_sample
from mace_studio.presets import known_kinds, known_phrases
from mace_studio.recipe import Concept, Recipe
from mace_studio.runtime.vocabulary import built_in, sample

CAT = Recipe(concepts=(Concept("cat", "forest", synonyms=("kitty",)),), preserve=("dog",))


def test_a_concept_is_mapped_to_its_group_a_person_or_art():
    assert neighbours.mappings(Concept("the Kitten", "")) == ["animal", "forest", "grass"]
    assert neighbours.mappings(Concept("Ada Finch", "", "celebrity")) == ["a person"]
    assert neighbours.mappings(Concept("Van Gogh", "", "style")) == ["art"]
    assert neighbours.mappings(Concept("xylophone", ""))[0] == "object"
    assert neighbours.mappings(Concept("cat", ""), built_in().kinds) == [
        "forest",
        "grass",
    ]  # the others it has not learned


def test_neighbours_are_of_the_same_group_and_never_what_the_recipe_names():
    found = neighbours.of(CAT, built_in().kinds, only=True, count=4)
    assert found == ["horse", "deer", "cow", "pig"]
    two = Recipe(concepts=(Concept("car", "street"), Concept("guitar", "room")))
    assert neighbours.of(two, {}, count=4) == ["truck", "trumpet", "bus", "piano"]  # automobile is the car


def test_people_who_share_a_name_come_first():
    recipe = Recipe(concepts=(Concept("Ada Finch", "a person", "celebrity"),))
    names = neighbours.of(recipe, built_in().kinds, only=True, count=3)
    assert all({"Ada", "Finch"} & set(name.split()) for name in names)
    real = Recipe(concepts=(Concept("Tom Hanks", "a person", "celebrity"),))
    assert all(known_phrases()[name] == "celebrity" for name in neighbours.of(real, known_phrases()))
    assert known_kinds() == {phrase.lower(): kind for phrase, kind in known_phrases().items()}


def test_a_sample_asks_for_few_images_of_each_role_and_of_what_the_judge_knows():
    plan = make_sample(CAT, neighbours=("lion", "cow"), words=3, pairs=12)
    assert [(p.role, p.word, p.label) for p in plan.probes] == [
        (ERASED, "cat", "cat"), (SYNONYM, "kitty", "cat"), (KEPT, "dog", "dog"), (NEIGHBOUR, "lion", "lion"),
        (NEIGHBOUR, "cow", "cow"),
    ]  # fmt: skip
    assert len(plan.seeds) == 2 and plan.captions == ()  # 10 pairs of the 12
    assert {p.word for p in make_sample(CAT, words=3, known={"dog"}).probes} == {"dog"}
    only = sample(CAT, built_in(), words=0, beyond=3, pairs=24)
    assert [p.role for p in only.probes] == [NEIGHBOUR] * 3 and len(only.seeds) == 8
