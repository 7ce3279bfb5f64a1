"""Sentences about a concept and about its mapping, in step."""

from string import Formatter

import pytest

from mace_studio import prompts
from mace_studio.recipe import KINDS, Concept, Recipe


@pytest.fixture
def two_templates(monkeypatch, tmp_path):
    """Two short templates for each of two kinds, so that expected sentences can be written out."""
    (tmp_path / "object.txt").write_text("a {}\n\n  the {} \n", encoding="utf-8")
    (tmp_path / "style.txt").write_text("art by {}\n{} style\n", encoding="utf-8")
    monkeypatch.setattr(prompts, "TEMPLATES", tmp_path)
    prompts.templates.cache_clear()
    yield
    prompts.templates.cache_clear()


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_hold_about_thirty_different_templates_with_one_gap_each(kind):
    lines = prompts.templates(kind)
    assert 25 <= len(lines) == len(set(lines))
    for line in lines:
        gaps = [(name, spec, how) for _, name, spec, how in Formatter().parse(line) if name is not None]
        assert gaps == [("", "", None)], line


MINIATURE = {
    "object": ["a photo of the {}", "a photo of a {}", "a {}", "the {}", "an image of a {}", "a picture of the {}"],
    "celebrity": [
        "a portrait of {}",
        "{} in an official photo",
        "an image capturing {} at a public event",
        "{}",
        "a photo of {}",
        "{} walking",
        "a sketch of {}",
    ],
    "style": [
        "Image in the style of {}",
        "Art inspired by {}",
        "Painting in the style of {}",
        "A reproduction of art by {}",
        "A famous artwork by {}",
        "a cat in the style of {}",
        "a photo of a house, {} style",
        "painting of a tree by {}",
    ],
}


@pytest.mark.parametrize("kind", MINIATURE)
def test_the_files_hold_the_forms_that_the_built_in_model_knows(kind):
    assert set(MINIATURE[kind]) <= set(prompts.templates(kind))


def test_concept_and_mapping_fill_the_same_templates(two_templates):
    concept = Concept(" cat ", " forest ")
    assert prompts.about(concept) == ["a cat", "the cat"]
    assert prompts.mapped(concept) == ["a forest", "the forest"]
    assert prompts.about(Concept("Vera Duotti", "art", "style")) == ["art by Vera Duotti", "Vera Duotti style"]


def test_braces_in_a_phrase_are_only_characters(two_templates):
    assert prompts.about(Concept("{0} {x}", "{}")) == ["a {0} {x}", "the {0} {x}"]


def test_kept_phrases_fill_the_templates_of_the_erased_kind_once(two_templates):
    concepts = (Concept("cat", "sky"), Concept("dog", "sky"))
    recipe = Recipe(concepts=concepts, preserve=("tree ", "Vera Duotti", "tree"))
    # also an artist's name, which the presets know as a style: only the phrase is to differ from what is erased
    assert list(prompts.preserved(recipe)) == ["a tree", "the tree", "a Vera Duotti", "the Vera Duotti"]
    # two concepts and their one mapping, two templates each, and the four above
    assert prompts.count(recipe) == 3 * 2 + 4


def test_beside_several_erased_kinds_a_kept_phrase_is_of_its_own(two_templates):
    concepts = (Concept("cat", "sky"), Concept("Nora Neonova", "art", "style"))
    recipe = Recipe(concepts=concepts, preserve=("otto schatten", "tree"))
    assert list(prompts.preserved(recipe)) == ["art by otto schatten", "otto schatten style", "a tree", "the tree"]
    turned = Recipe(concepts=concepts[::-1], preserve=("tree",))
    assert list(prompts.preserved(turned)) == ["art by tree", "tree style"]  # not known: the first concept's kind
    assert prompts.count(recipe) == 2 * 2 * 2 + 4


def test_what_is_kept_beside_explicit_content_is_not_known_as_explicit():
    concepts = (Concept("Ada Finch", "a person", "celebrity"), Concept("bomb", "a person", "explicit"))
    recipe = Recipe(concepts=concepts, preserve=("camera",))
    assert prompts.kept_kind("bomb", recipe) == "explicit"
    assert prompts.kept_kind("camera", recipe) == "celebrity"


def test_count_is_the_number_of_sentences_of_a_real_recipe():
    recipe = Recipe(concepts=(Concept("cat", "sky"), Concept("Ada Finch", "a person", "celebrity")), preserve=("dog",))
    sentences = [s for c in recipe.concepts for s in prompts.about(c) + prompts.mapped(c)]
    assert prompts.count(recipe) == len(sentences) + len(list(prompts.preserved(recipe)))
    swapped = Recipe(concepts=(Concept("cat", "dog"), Concept("dog", "cat")))
    assert prompts.count(swapped) == 2 * len(prompts.templates("object"))


def test_training_images_show_a_thing_or_a_style():
    assert prompts.image_prompt(" cat", "object") == "a photo of the cat"
    assert prompts.image_prompt("Ada Finch", "celebrity") == "a photo of Ada Finch"
    assert prompts.image_prompt("Vera Duotti ", "style") == "a photo in the style of Vera Duotti"
    for phrase in ("style of Monet", "the style of Monet", "in the style of Monet"):  # nothing is said twice
        assert prompts.image_prompt(phrase, "style") == "a photo in the style of Monet"
    assert prompts.image_prompt("The Beatles", "object") == "a photo of The Beatles"
    assert prompts.image_prompt("theatre of the absurd", "object") == "a photo of the theatre of the absurd"


def test_suggestions_name_their_role_and_are_few():
    concepts = tuple(Concept(f"thing{i}", "sky", synonyms=(f"word{i}", f"term{i}")) for i in range(6))
    recipe = Recipe(concepts=concepts, preserve=("tree", "lion", "bee", "fish", "cow"))
    got = prompts.suggestions(recipe)
    assert got[0] == ("erased", "a photo of the thing0")
    assert got[4] == ("synonym", "a photo of the word0")
    assert got[5] == ("synonym", "a photo of the term0")
    assert got[-1] == ("kept", "a photo of the fish")
    assert [role for role, _ in got] == ["erased"] * 4 + ["synonym"] * 4 + ["kept"] * 4


def test_suggestions_of_an_empty_recipe_are_what_is_kept():
    assert prompts.suggestions(Recipe()) == []
    assert prompts.suggestions(Recipe(preserve=("tree",))) == [("kept", "a photo of the tree")]
