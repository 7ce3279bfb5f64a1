"""What the user asks for: checks in words, JSON in and out."""

import dataclasses
import json
from dataclasses import replace

import pytest

from mace_studio.errors import RecipeError, StudioError
from mace_studio.methods import METHODS
from mace_studio.methods.mace import MaceSettings
from mace_studio.recipe import MAX_CONCEPTS, Concept, ImageRequest, Recipe
from mace_studio.settings import ImageSettings, KeepWeights, LoraSettings

CAT = Concept("cat", "forest")
GOOD = Recipe(concepts=(CAT,))


def refused(recipe, field, *words):
    """The message of the RecipeError that `recipe.check()` must raise, which must name the field and the words."""
    with pytest.raises(RecipeError) as caught:
        recipe.check()
    assert caught.value.field == field
    message = str(caught.value)
    assert message.startswith(f"{field}: ")
    assert message.endswith(".")
    for word in words:
        assert word in message, message


def test_a_good_recipe_checks_to_itself():
    assert GOOD.check() is GOOD
    wide = Recipe(concepts=tuple(Concept(f"c{i}", "sky") for i in range(MAX_CONCEPTS)), preserve=("dog",))
    assert wide.check() is wide


def test_limits_are_allowed():
    lora = LoraSettings(steps=0, rank=1, learning_rate=1e-9, t1=0, t2=999)
    images = ImageSettings(per_concept=1, steps=1, guidance=1)
    replace(
        GOOD.with_settings(lora=lora, images=images, concepts_at_once=1, refine=KeepWeights()), seed=2**63 - 1
    ).check()


def test_concepts_are_checked():
    refused(Recipe(), "concepts", "at least one")
    many = tuple(Concept(f"c{i}", "sky") for i in range(MAX_CONCEPTS + 1))
    refused(Recipe(concepts=many), "concepts", str(MAX_CONCEPTS + 1), str(MAX_CONCEPTS))
    refused(Recipe(concepts=(CAT, Concept(" ", "sky"))), "concepts[1].phrase", "Row 2", "remove")
    refused(Recipe(concepts=(CAT, Concept("dog", "\t"))), "concepts[1].mapping", "“dog”", "maps to")
    refused(Recipe(concepts=(Concept("cat", "sky", "animal"),)), "concepts[0].kind", "“animal”", "celebrity")
    refused(Recipe(concepts=(CAT, Concept("dog", "sky"), Concept(" CAT", "sky"))), "concepts[2].phrase", "Rows 1 and 3")


def test_synonyms_are_other_words():
    for i, synonym in enumerate(("", " \t", "CAT ", "sky", "c\u00adat")):
        words = (*(f"word {j}" for j in range(i)), synonym)
        refused(Recipe(concepts=(Concept("cat", "sky", synonyms=words),)), f"concepts[0].synonyms[{i}]", "row 1")
    kitty = Concept("cat", "sky", synonyms=("feline", "kitty"))
    refused(Recipe(concepts=(kitty,), preserve=("dog", "Kitty")), "preserve[1]", "“Kitty”", "erased in row 1")


def test_the_preserve_list_is_checked():
    refused(replace(GOOD, preserve=("dog", " ")), "preserve[1]", "empty")
    refused(replace(GOOD, preserve=("dog", "Cat ")), "preserve[1]", "“Cat ”", "erased in row 1", "kept")


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize("stage", ["refine", "fuse"])
@pytest.mark.parametrize("part", ["general", "preserve", "identity"])
@pytest.mark.parametrize("value", [-1e-9, NAN, INFINITY, -INFINITY])
def test_keep_weights_are_checked(stage, part, value):
    refused(GOOD.with_settings(**{stage: KeepWeights(**{part: value})}), f"{stage}.{part}")


@pytest.mark.parametrize(
    ("settings", "field", "word"),
    [
        ({"steps": -1}, "lora.steps", "at least 0"),
        ({"rank": 0}, "lora.rank", "at least 1"),
        ({"learning_rate": 0.0}, "lora.learning_rate", "above 0"),
        ({"learning_rate": NAN}, "lora.learning_rate", "above 0"),
        ({"alpha": 0.0}, "lora.alpha", "above 0"),
        ({"alpha": INFINITY}, "lora.alpha", "above 0"),
        ({"gamma": -0.1}, "lora.gamma", "above 0"),
        ({"tune": "query"}, "lora.tune", "both, key, value"),
        ({"kept_samples": 65, "tune": "key"}, "lora.kept_samples", "at most 64"),
        ({"kept_samples": -1, "tune": "key"}, "lora.kept_samples", "at least 0"),
        ({"kept_samples": 1}, "lora.tune", "choose key"),
        ({"t1": -1.0}, "lora.t1", "at least 0"),
        ({"t1": NAN}, "lora.t1", "at least 0"),
        ({"t2": 1000.0}, "lora.t2", "999"),
        ({"t2": NAN}, "lora.t2", "999"),
        ({"t1": 400.0}, "lora.t1", "below t2 (400)"),
        ({"t1": 500.0}, "lora.t1", "t1 (500) must be below"),
        ({"t1": 300.2, "t2": 300.6}, "lora.t1", "No whole timestep lies from t1 (300.2) to t2 (300.6); widen them."),
        ({"t1": 999.1, "t2": 999.9}, "lora.t1", "No whole timestep"),
        ({"learning_rate": 1e300}, "lora.learning_rate", "1e+300 is too large"),
        ({"alpha": 1e39}, "lora.alpha", "1e+39 is too large"),
        ({"gamma": 1e308}, "lora.gamma", "1e+308 is too large"),
    ],
)
def test_lora_settings_are_checked(settings, field, word):
    refused(GOOD.with_settings(lora=LoraSettings(**settings)), field, word)


@pytest.mark.parametrize(
    ("settings", "field", "word"),
    [
        ({"images": ImageSettings(per_concept=0)}, "images.per_concept", "at least 1"),
        ({"images": ImageSettings(steps=0)}, "images.steps", "at least 1"),
        ({"images": ImageSettings(guidance=0.9)}, "images.guidance", "at least 1"),
        ({"images": ImageSettings(guidance=NAN)}, "images.guidance", "at least 1"),
        ({"fusion": "sum"}, "fusion", "closed-form, weighted-sum"),
        ({"masks": "drawn"}, "masks", "attention, clipseg, grounded-sam, none"),
        ({"concepts_at_once": 0}, "concepts_at_once", "at least 1"),
    ],
)
def test_other_settings_are_checked(settings, field, word):
    refused(GOOD.with_settings(**settings), field, word)


@pytest.mark.parametrize(("seed", "word"), [(-1, "at least 0"), (2**63, "too large"), (10**400, "too large")])
def test_the_seed_is_checked(seed, word):
    refused(replace(GOOD, seed=seed), "seed", word)


@pytest.mark.parametrize("value", [10**400, -(10**400), INFINITY, NAN], ids=["large", "small", "inf", "nan"])
@pytest.mark.parametrize("name", METHODS)
def test_a_number_that_no_float_can_take_is_refused_at_its_field(name, value):
    settings = METHODS[name].settings()
    for part in dataclasses.fields(settings):
        own = getattr(settings, part.name)
        if isinstance(own, int | float) and not isinstance(own, bool):
            refused(Recipe(concepts=(CAT,), method=name, settings=replace(settings, **{part.name: value})), part.name)
        elif dataclasses.is_dataclass(own):
            for inner in dataclasses.fields(own):
                if type(getattr(own, inner.name)) in (int, float):
                    changed = replace(settings, **{part.name: replace(own, **{inner.name: value})})
                    refused(Recipe(concepts=(CAT,), method=name, settings=changed), f"{part.name}.{inner.name}")


def test_an_unknown_method_is_refused_by_name():
    with pytest.raises(RecipeError, match="“mase” is not known; use one of mace") as caught:
        Recipe.from_json('{"concepts": [], "method": "mase"}')
    assert caught.value.field == "method"


def test_settings_of_another_method_are_refused():
    refused(replace(GOOD, settings=KeepWeights()), "settings", "MACE")


def test_a_recipe_of_the_first_version_has_its_settings_beside_the_other_fields():
    first = Recipe.from_json('{"concepts": [], "lora": {"rank": 2}, "fusion": "weighted-sum", "seed": 3}')
    assert first == Recipe(settings=MaceSettings(lora=LoraSettings(rank=2), fusion="weighted-sum"), seed=3)
    assert json.loads(first.to_json())["settings"]["lora"]["rank"] == 2


def test_a_recipe_keeps_the_digits_that_version_0_1_gave_it():
    # Printed by version 0.1 for the same two recipes: names of files and origins of LoRAs are made of them.
    assert GOOD.digest() == "d124b326"
    assert (
        Recipe(concepts=(CAT,), preserve=("dog",), settings=MaceSettings(masks="none"), seed=7).digest() == "46899b5a"
    )


def test_lists_become_tuples():
    assert Recipe(concepts=[Concept("cat", "sky", synonyms=["kitty"])], preserve=["dog"]) == Recipe(
        concepts=(Concept("cat", "sky", synonyms=("kitty",)),), preserve=("dog",)
    )


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"prompts": ()}, "prompt"),
        ({"prompts": ("a cat", " ")}, "prompt"),
        ({"seeds": ()}, "seed"),
        ({"seeds": (0, -1)}, "seed"),
        ({"seeds": (2**70,)}, "seed"),
        ({"steps": 0}, "steps"),
        ({"guidance": 0.5}, "guidance"),
        ({"guidance": NAN}, "guidance"),
    ],
)
def test_drawings_are_checked(settings, field):
    good = ImageRequest(("a cat",), (0, 1))
    assert good.check() is good
    refused(replace(good, **settings), field)


def test_the_title_is_the_name_or_the_first_concepts():
    concepts = tuple(Concept(p, "sky") for p in ("cat", " dog", "bee", "cow", "pig"))
    assert Recipe(concepts=concepts, name=" farm ").title() == "farm"
    assert Recipe(concepts=concepts).title() == "cat, dog, bee and 2 more"
    assert Recipe(concepts=concepts[:3], name=" ").title() == "cat, dog, bee"


def test_fields_left_out_take_their_defaults():
    text = '{"concepts": [{"phrase": "cat", "mapping": "sky"}], "refine": {"general": 3}}'
    expected = Recipe(
        concepts=(Concept("cat", "sky", "object", ()),), settings=MaceSettings(refine=KeepWeights(3.0, 0.0, 0.0))
    )
    assert Recipe.from_json(text) == expected
    assert Recipe.from_json("{}") == Recipe()


def test_a_recipe_is_written_as_people_read_it():
    data = json.loads(replace(GOOD, about="λ1 wie im Aufsatz").to_json())
    assert data["concepts"] == [{"phrase": "cat", "mapping": "forest", "kind": "object", "synonyms": []}]
    assert data["about"] == "λ1 wie im Aufsatz"
    assert "λ1" in replace(GOOD, about="λ1").to_json()


def unreadable(data, field, *words):
    """`data`, an object or JSON text, must be refused with the field and the words in the message."""
    with pytest.raises(RecipeError) as caught:
        Recipe.from_json(data if isinstance(data, str) else json.dumps(data))
    assert caught.value.field == field
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert isinstance(caught.value, StudioError)


@pytest.mark.parametrize("text", ["", "{", "cat", "{'seed': 1}", '{"seed": 1} x'])
def test_what_is_not_json_is_refused_in_words(text):
    unreadable(text, "", "not valid JSON")


def test_unknown_keys_are_named_with_their_path():
    unreadable({"sead": 1}, "sead", "not known", "seed")
    unreadable({"lora": {"stepps": 1}}, "lora.stepps", "steps", "learning_rate")
    unreadable(
        {"concepts": [{"phrase": "a", "mapping": "b"}, {"phrase": "a", "map": "b"}]}, "concepts[1].map", "mapping"
    )


def test_missing_fields_are_named_with_their_path():
    unreadable({"concepts": [{"phrase": "a"}]}, "concepts[0].mapping", "missing")
    unreadable({"concepts": [{}]}, "concepts[0].phrase", "missing")


def test_a_number_too_large_for_a_float_is_refused():
    unreadable({"lora": {"gamma": 10**400}}, "lora.gamma", "too large")


def test_digits_and_brackets_without_end_are_told_in_plain_words():
    for text in ('{"seed": 1' + "0" * 5000 + "}", '{"concepts": ' * 100_000, "[" * 100_000):
        unreadable(text, "", "it is nested too deeply, or has a number of thousands of digits.")


def test_broken_characters_are_refused():
    unreadable('{"name": "\\ud800"}', "name", "broken character")


@pytest.mark.parametrize(
    ("data", "field", "needed", "found"),
    [
        ([], "", "An object with named fields", "a list"),
        ({"lora": []}, "lora", "An object with named fields", "a list"),
        ({"concepts": ["cat"]}, "concepts[0]", "An object with named fields", "text"),
        ({"concepts": {}}, "concepts", "A list", "an object"),
        ({"preserve": "dog"}, "preserve", "A list", "text"),
        ({"preserve": ["dog", 3]}, "preserve[1]", "Text", "a number"),
        (
            {"concepts": [{"phrase": "a", "mapping": "b", "synonyms": ["c", None]}]},
            "concepts[0].synonyms[1]",
            "Text",
            "nothing",
        ),
        ({"name": 3}, "name", "Text", "a number"),
        ({"seed": "3"}, "seed", "A whole number", "text"),
        ({"seed": 3.0}, "seed", "A whole number", "a number"),
        ({"seed": True}, "seed", "A whole number", "true or false"),
        ({"seed": None}, "seed", "A whole number", "nothing"),
        ({"lora": {"gamma": False}}, "lora.gamma", "A number", "true or false"),
        ({"lora": {"gamma": "0.05"}}, "lora.gamma", "A number", "text"),
        ({"lora": {"uniform": 1}}, "lora.uniform", "true or false", "a number"),
        ({"refine": {"general": [1]}}, "refine.general", "A number", "a list"),
    ],
)
def test_wrong_types_are_named_with_their_path(data, field, needed, found):
    unreadable(data, field, f"{needed} is needed here, not {found}.")


def test_digests_tell_recipes_apart_and_are_the_same_for_the_same():
    assert GOOD.digest() == Recipe(concepts=(Concept("cat", "forest"),)).digest()
    assert len({GOOD.digest(), replace(GOOD, seed=1).digest(), replace(GOOD, preserve=("dog",)).digest()}) == 3
    assert len(GOOD.digest()) == 8
    int(GOOD.digest(), 16)


def test_equal_recipes_are_written_alike():
    # A slider gives 1 where a file gives 1.0.
    whole, point = (
        GOOD.with_settings(refine=KeepWeights(1, 2, 3)),
        GOOD.with_settings(refine=KeepWeights(1.0, 2.0, 3.0)),
    )
    assert whole == point
    assert whole.to_json() == point.to_json()
    assert whole.digest() == point.digest() == Recipe.from_json(whole.to_json()).digest()


# Bounds, which every way to a recipe shares


@pytest.mark.parametrize(
    ("changes", "field", "word"),
    [
        ({"lora": LoraSettings(rank=1_000_000)}, "lora.rank", "256"),
        ({"lora": LoraSettings(steps=10**9)}, "lora.steps", "100000"),
        ({"images": ImageSettings(per_concept=10**8)}, "images.per_concept", "1000"),
        ({"images": ImageSettings(steps=1000)}, "images.steps", "999"),
        ({"images": ImageSettings(guidance=1e300)}, "images.guidance", "1000"),
        ({"concepts_at_once": 10**6}, "concepts_at_once", "64"),
    ],
)
def test_every_number_that_costs_has_a_bound(changes, field, word):
    refused(GOOD.with_settings(**changes), field, word)


def test_every_list_and_text_has_a_bound():
    refused(replace(GOOD, preserve=tuple(f"p{i}" for i in range(10_001))), "preserve", "10001", "10000")
    refused(replace(GOOD, concepts=(replace(CAT, synonyms=("kitty",) * 51),)), "concepts[0].synonyms", "51", "50")
    refused(replace(GOOD, concepts=(Concept("c" * 256, "sky"),)), "concepts[0].phrase", "256 characters", "255")
    refused(replace(GOOD, concepts=(Concept("cat", "s" * 10**6),)), "concepts[0].mapping", "1,000,000 characters")
    refused(replace(GOOD, preserve=("p" * 256,)), "preserve[0]", "255")
    refused(replace(GOOD, name="n" * 201), "name", "200")
    refused(replace(GOOD, about="a" * 2001), "about", "2,000")
    with pytest.raises(RecipeError, match="16,777,216"):
        Recipe.from_json(" " * (16 * 2**20 + 1))


def test_what_is_asked_of_images_has_bounds():
    one = ImageRequest(("a cat",))
    for request, field in (
        (replace(one, prompts=("a",) * 1001), "prompt"),
        (replace(one, seeds=(0,) * 1001), "seed"),
        (replace(one, prompts=("a",) * 101, seeds=(0,) * 100), "prompt"),
        (replace(one, prompts=("a" * 4001,)), "prompt"),
        (replace(one, negative="a" * 4001), "negative"),
        (replace(one, guidance=1e6), "guidance"),
        (replace(one, size=(4096, 4096)), "size"),
        (replace(one, size=(8, 8_000)), "size"),
    ):
        with pytest.raises(RecipeError) as caught:
            request.check()
        assert caught.value.field == field
    assert replace(one, size=(4096, 1024)).check() and replace(one, size=(1088, 264)).check()


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Recipe(concepts=[CAT], preserve="dog"), "preserve"),
        (lambda: Recipe(concepts=[CAT], preserve=None), "preserve"),
        (lambda: Recipe(concepts=[CAT], preserve=["dog", 5]), "preserve[1]"),
        (lambda: Recipe(concepts="cat"), "concepts"),
        (lambda: Recipe(concepts={"phrase": "cat", "mapping": "forest"}), "concepts"),
        (lambda: Recipe(concepts=["cat"]), "concepts[0]"),
        (lambda: Recipe(concepts=[Concept("cat", "forest", synonyms="kitty")]), "synonyms"),
        (lambda: Recipe(concepts=[Concept("cat", None)]), "concepts[0].mapping"),
        (lambda: Recipe(concepts=[Concept(7, "forest")]), "concepts[0].phrase"),
        (lambda: replace(GOOD, name=5), "name"),
        (lambda: replace(GOOD, seed=1.5), "seed"),
        (lambda: replace(GOOD, seed="1"), "seed"),
        (lambda: replace(GOOD, seed=True), "seed"),
        (lambda: replace(GOOD, settings=None, method=None), "method"),
        (lambda: replace(GOOD, settings=None, method=["mace"]), "method"),
        (lambda: GOOD.with_settings(lora=LoraSettings(rank=2.5)), "lora.rank"),
        (lambda: GOOD.with_settings(lora=LoraSettings(alpha="1")), "lora.alpha"),
        (lambda: GOOD.with_settings(lora=LoraSettings(squared="no")), "lora.squared"),
        (lambda: GOOD.with_settings(images=ImageSettings(steps=1.5)), "images.steps"),
        (lambda: GOOD.with_settings(images={"steps": 2}), "images"),
        (lambda: ImageRequest("cat"), "prompts"),
        (lambda: ImageRequest(("cat", None)), "prompts[1]"),
        (lambda: ImageRequest(("cat",), 5), "seeds"),
        (lambda: ImageRequest(("cat",), (1.5,)), "seeds[0]"),
        (lambda: ImageRequest(("cat",), steps=2.5), "steps"),
        (lambda: ImageRequest(("cat",), guidance="7"), "guidance"),
        (lambda: ImageRequest(("cat",), negative=None), "negative"),
        (lambda: ImageRequest(("cat",), size=(64,)), "size"),
        (lambda: ImageRequest(("cat",), size="64"), "size"),
        (lambda: ImageRequest(("cat",), size=(64.0, 64)), "size"),
    ],
)
def test_what_a_program_makes_of_other_types_is_refused(make, field):
    """“dog” as the preserve list would keep d, o and g, and “cat” as the prompts would be three images."""
    with pytest.raises(RecipeError) as caught:
        make().check()
    assert caught.value.field == field and str(caught.value).endswith(".")


def test_lists_and_whole_numbers_of_a_program_are_as_good():
    Recipe(concepts=[Concept("cat", "forest", synonyms=["kitty"])], preserve={"dog": 1}.keys()).check()
    GOOD.with_settings(lora=LoraSettings(alpha=1, t1=200, t2=400)).check()
    assert ImageRequest(["cat"], [0, 1], guidance=4, size=[64, 64]).check().pairs() == [("cat", 0), ("cat", 1)]


def test_a_byte_order_mark_before_a_recipe_is_no_part_of_it():
    assert Recipe.from_json("\ufeff" + GOOD.to_json()) == GOOD


@pytest.mark.parametrize("phrase", ["\u0301cat", " \u0301cat", "\u20dd", "\ufe0fcat", "\u0903cat"])
def test_a_mark_without_its_letter_begins_no_phrase(phrase):
    """In a prompt it belongs to the word before, so that the phrase stands nowhere."""
    refused(Recipe(concepts=[Concept(phrase, "forest")]), "concepts[0].phrase", "a letter that is not there")
    refused(Recipe(concepts=[Concept("cat", phrase)]), "concepts[0].mapping", "a letter that is not there")
    refused(Recipe(concepts=[CAT], preserve=["dog", phrase]), "preserve[1]", "a letter that is not there")
    Recipe(concepts=[Concept(f"e{phrase.strip()}", "forest")], name=phrase).check()
