"""The form's values and the recipe, and concepts as text: nothing is lost, and what is wrong is named."""

import csv
import dataclasses
import io
import json
import math
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_studio.errors import RecipeError
from mace_studio.methods import METHODS
from mace_studio.methods.mace import FUSIONS, MASKS, MaceSettings
from mace_studio.prompts import suggestions
from mace_studio.recipe import KINDS, MAX_CONCEPTS, Concept, Recipe
from mace_studio.runtime.vocabulary import Vocabulary
from mace_studio.settings import TUNE, ImageSettings, KeepWeights, LoraSettings
from mace_studio.ui import concept_text, form, kinds, notices
from mace_studio.ui.cards.recipe_form import _dial_text, preset_change
from mace_studio.ui.components import charts, text
from mace_studio.ui.form_fields import BY_KEY, COMMON, FIELDS, METHOD_GROUPS, generated, method_fields, told

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\t\n"), max_size=20)
numbers = st.floats(allow_nan=False, allow_infinity=False)
wholes = st.integers(0, 2**63 - 1)
weights = st.builds(KeepWeights, numbers, numbers, numbers)
recipes = st.builds(
    Recipe,
    concepts=st.lists(
        st.builds(Concept, texts, texts, st.sampled_from(KINDS), st.lists(texts, max_size=4).map(tuple)), max_size=4
    ).map(tuple),
    preserve=st.lists(texts, max_size=4).map(tuple),
    name=texts,
    about=texts,
    settings=st.builds(
        MaceSettings,
        refine=weights,
        fuse=weights,
        lora=st.builds(
            LoraSettings,
            steps=wholes, learning_rate=numbers, rank=wholes, alpha=numbers, t1=numbers, t2=numbers, gamma=numbers,
            uniform=st.booleans(), tune=st.sampled_from(TUNE), pad_tokens=st.booleans(), squared=st.booleans(),
            kept_samples=wholes,
        ),
        fusion=st.sampled_from(FUSIONS),
        images=st.builds(ImageSettings, wholes, wholes, numbers),
        masks=st.sampled_from(MASKS),
        concepts_at_once=wholes,
    ),
    seed=wholes,
)  # fmt: skip


def values(**changes):
    """The default form with one row, and some values changed."""
    start = dict(zip(BY_KEY, form.values_from(Recipe(concepts=(Concept("cat", "forest"),))), strict=True))
    return list((start | changes).values())


@given(recipes)
@settings(max_examples=150)
def test_a_recipe_survives_the_form(recipe):
    assert form.recipe_from(form.values_from(recipe)) == recipe


def changed_settings(name):
    """Settings of a method that may all differ from its defaults, within what their metadata allows."""

    def value(part):
        about, default = part.metadata, getattr(METHODS[name].settings(), part.name)
        if isinstance(default, KeepWeights):
            return weights
        if isinstance(default, str):
            return st.sampled_from(about["choices"])
        if isinstance(default, bool):
            return st.booleans()
        if isinstance(default, int):
            return st.integers(about["least"], about["most"] or 2**40)
        return st.floats(about["least"], about["most"], allow_nan=False, allow_infinity=False)

    return st.builds(
        METHODS[name].settings, **{part.name: value(part) for part in dataclasses.fields(METHODS[name].settings)}
    )


@pytest.mark.parametrize("name", [name for name in METHODS if name != "mace"])
@given(data=st.data())
@settings(max_examples=20)
def test_a_recipe_of_every_method_survives_the_form(name, data):
    concepts = (Concept("cat", "forest"), Concept("ship", "ground"))
    recipe = Recipe(concepts=concepts, method=name, settings=data.draw(changed_settings(name)), seed=3)
    assert form.recipe_from(form.values_from(recipe)) == recipe


@pytest.mark.parametrize("name", METHODS)
def test_the_form_shows_every_field_of_a_recipe_once_and_explains_each_setting(name):
    def paths(data, prefix=""):
        for key, value in data.items():
            yield from paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]

    data = json.loads(Recipe(method=name).to_json())
    own = data.pop("settings")
    assert sorted(f.path for f in COMMON) == sorted(paths(data))
    assert sorted(f.path for f in method_fields(name)) == sorted(paths(own))
    assert all(field.hint for field in method_fields(name))


def test_the_form_shows_every_method_and_every_key_and_place_is_unique():
    assert list(METHOD_GROUPS) == list(METHODS)
    assert len(BY_KEY) == len(FIELDS) == len({field.elem_id for field in FIELDS})


def test_controls_follow_from_the_fields_of_the_settings():
    plain, flags = METHOD_GROUPS["adavd"]
    assert [(f.key, f.label, f.kind) for f in flags.fields] == [
        ("adavd_token_sim", "Token sim", "flag"),
        ("adavd_jointly", "Jointly", "flag"),
    ]
    assert [f.path for f in plain.fields] == ["scale", "steepness", "threshold"]
    assert plain.fields[0].hint == "Largest weight." and plain.fields[0].kind == "decimal"
    select = BY_KEY["esd_select"]
    assert (select.kind, select.choices) == ("choice", ("x", "x-strict", "u", "u-new"))
    assert BY_KEY["esd_steps"].kind == "whole"
    inner = BY_KEY["mace_free_refine_general"]
    assert (inner.path, inner.label, inner.elem_id) == ("refine.general", "Refine: general", "mace-free-refine-general")


def test_a_setting_that_no_control_can_show_is_refused():
    @dataclasses.dataclass(frozen=True)
    class Odd:
        words: tuple = ()

    with pytest.raises(TypeError, match="the setting words of odd"):
        generated("odd", Odd)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("uce", "It reads what each concept maps to and your keep list."),
        ("sld", "It reads the concepts alone. It cannot use your keep list."),
        ("fmn", "It reads training images. It cannot use your keep list."),
        ("oce", "It reads what each concept maps to, your keep list and the general captions."),
    ],
)
def test_the_form_says_what_a_method_reads(name, says):
    assert told(METHODS[name]) == f"{METHODS[name].about} {says}"


def test_a_wrong_setting_of_a_method_leads_to_its_control():
    shown = dict(zip(BY_KEY, form.values_from(Recipe(concepts=(Concept("cat", "forest"),), method="ac")), strict=True))
    with pytest.raises(RecipeError, match="not a number") as caught:
        form.recipe_from(list((shown | {"ac_learning_rate": "fast"}).values()))
    place = notices.problem(caught.value)
    assert place["text"].startswith("Learning rate: ") and "#ac-learning-rate input" in place["target"]


def test_a_method_without_a_dial_says_where_its_settings_are():
    recipe = Recipe(concepts=(Concept("cat", "forest"),), method="uce")
    assert form.with_strength(form.values_from(recipe), 2) == {}
    assert "Expert view" in _dial_text("uce", *"01234")


@pytest.mark.parametrize(
    ("changes", "path", "says"),
    [
        ({"lambda1": "a lot"}, "refine.general", "“a lot” is not a number"),
        ({"lambda1": "1,5"}, "refine.general", "not a number"),
        ({"lambda3": ""}, "refine.preserve", "Type a number"),
        ({"lora_steps": "2.5"}, "lora.steps", "type a whole number"),
        ({"lora_steps": None}, "lora.steps", "Type a whole number"),
        ({"seed": "ten"}, "seed", "“ten” is not a number"),
        ({"uniform": "yes"}, "lora.uniform", "true or false"),
        ({"tune": None}, "lora.tune", "Text is needed"),
        ({"preserve": "cat"}, "preserve", "A list is needed"),
        ({"preserve": [1]}, "preserve[0]", "Text is needed"),
        ({"concepts": [["cat"]]}, "concepts[0]", "A row has 4 texts"),
        ({"concepts": [["cat", "forest", "object", None]]}, "concepts[0]", "A row has 4 texts"),
    ],
)
def test_a_bad_value_is_named(changes, path, says):
    with pytest.raises(RecipeError, match=says) as caught:
        form.recipe_from(values(**changes))
    assert caught.value.field == path


def test_name_and_about_of_a_preset_go_with_its_concepts():
    preset = Recipe(concepts=(Concept("cat", "forest"),), name="Cat", about="The cat of the miniature.")
    shown = dict(zip(BY_KEY, form.values_from(preset), strict=True))
    other = [["guitar", "sky", "object", ""]]
    changed = form.recipe_from(list((shown | {"concepts": other}).values()))
    assert (changed.name, changed.about, changed.title()) == ("", "", "guitar")
    named = form.recipe_from(list((shown | {"concepts": other, "name": "Mine"}).values()))
    assert (named.name, named.about) == ("Mine", "")
    stronger = form.recipe_from(list((shown | {"lambda1": "3"}).values()))
    assert (stronger.name, stronger.about) == ("Cat", "The cat of the miniature.")


def test_a_mapping_that_came_with_another_phrase_is_told():
    preset = Recipe(concepts=(Concept("cat", "forest"), Concept("dog", "grass")))
    shown = dict(zip(BY_KEY, form.values_from(preset), strict=True))
    rows = [["guitar", "forest", "object", ""], ["dog", "grass", "object", ""], ["piano", "", "object", ""]]
    rows.append(["violin", "room", "object", ""])
    values = list((shown | {"concepts": rows}).values())
    assert form.left_over(form.recipe_from(values), values) == {0}
    values = list((shown | {"about": ""}).values())  # as a program may send it
    assert form.left_over(form.recipe_from(values), values) == set()


def test_the_dial_turns_what_filled_the_form_and_comes_back():
    weights = KeepWeights(preserve=0.1, general=1e-4)
    recipe = Recipe(concepts=(Concept("cat", "forest"),), settings=MaceSettings(refine=weights, fuse=weights))
    values = form.values_from(recipe)
    stronger = form.with_strength(values, 2)  # a tenth of the weights, twice the rate: 10^0.3
    assert stronger == {
        "lambda1": "1e-5", "lambda2": "1e-5", "lambda3": "0.01", "identity": "0", "learning_rate": "0.0002",
    }  # fmt: skip
    assert form.with_strength(values, 0)["lambda3"] == "0.1"
    assert form.with_strength(values, -1)["lambda3"] == "0.32"
    shown = dict(zip(BY_KEY, values, strict=True)) | stronger  # what the dial wrote does not pile up
    assert form.with_strength(list(shown.values()), 1)["lambda3"] == "0.032"


@pytest.mark.parametrize("value", ["nan", "inf", "-1"])
def test_a_number_that_is_none_is_left_to_the_check(value):
    with pytest.raises(RecipeError, match=r"not allowed|too large") as caught:
        form.recipe_from(values(lambda1=value)).check()
    assert caught.value.field == "refine.general"


def test_the_main_weights_set_both_stages():
    recipe = form.recipe_from(values(lambda1="1", lambda2="2", lambda3="3", identity="4"))
    assert recipe.settings.refine == KeepWeights(1.0, 3.0, 4.0)
    assert recipe.settings.fuse == KeepWeights(2.0, 3.0, 4.0)
    apart = form.recipe_from(values(lambda3="3", lambda3_fuse="5", identity_fuse="0"))
    assert (apart.settings.refine.preserve, apart.settings.fuse.preserve, apart.settings.fuse.identity) == (
        3.0,
        5.0,
        0.0,
    )


@pytest.mark.parametrize(
    ("number", "short"),
    [(0.0, "0"), (1e-4, "1e-4"), (1e-7, "1e-7"), (0.8, "0.8"), (1000.0, "1000"), (0.001, "0.001"), (1e22, "1e22")],
)
def test_numbers_are_short(number, short):
    assert text.number_text(number) == short
    assert float(short) == number


def test_differences_name_what_a_preset_changes():
    now = Recipe(concepts=(Concept("cat", "forest"),))
    then = Recipe(
        concepts=tuple(Concept(f"c{i}", "x") for i in range(6)),
        seed=3,
        settings=MaceSettings(lora=LoraSettings(uniform=True)),
    )
    assert form.differences(now, then) == [
        (
            "Concepts",
            "cat → forest · object",
            "c0 → x · object, c1 → x · object, c2 → x · object, c3 → x · object and 2 more",
        ),
        ("Seed", "0", "3"),
        ("Uniform timesteps", "off", "on"),
    ]


def test_differences_of_lists_are_their_items_that_differ():
    same = tuple(Concept(f"c{i}", "x") for i in range(6))
    now = Recipe(concepts=(*same, Concept("cat", "forest")), preserve=("a", "b", "c", "d", "e"))
    then = Recipe(concepts=(*same, Concept("cat", "sky", "style", ("kitty", "tom"))), preserve=("a", "b", "c", "d"))
    assert form.differences(now, then) == [
        ("Concepts", "cat → forest · object", "cat → sky · style · kitty, tom"),
        ("Keep unchanged", "e", "nothing more"),
    ]
    turned = Recipe(concepts=now.concepts[::-1])
    assert form.differences(now, turned) == [
        ("Concepts", "the same", "in another order"), ("Keep unchanged", "a, b, c, d and 1 more", "none"),
    ]  # fmt: skip
    assert "forest · object becomes cat → sky" in preset_change(now, then)
    assert form.differences(Recipe(concepts=(Concept("", ""),)), then)[0][1] == "an empty row"
    by_uce = dataclasses.replace(now, method="uce", settings=METHODS["uce"].settings())
    assert form.differences(now, by_uce) == [("Method", "MACE", "UCE")]


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("0", [0]),
        ("0, 1, 2", [0, 1, 2]),
        ("0-3", [0, 1, 2, 3]),
        ("5 7-8,5", [5, 7, 8]),
        ("", []),
        (str(2**63 - 1), [2**63 - 1]),
    ],
)
def test_seeds(text, seeds):
    assert form.seeds_from(text) == seeds


@pytest.mark.parametrize("text", ["one", "-1", "1-", "1.5", "0-99999999999", "²", "5-3", "9" * 5000, "0-" + "9" * 5000])
def test_bad_seeds_are_named(text):
    with pytest.raises(RecipeError) as caught:
        form.seeds_from(text)
    assert caught.value.field == "seed"


@given(st.lists(texts).map(tuple))
def test_synonyms_survive_their_line(synonyms):
    assert concept_text.synonyms_from(concept_text.synonyms_text(synonyms)) == synonyms


def test_synonyms_are_read_as_people_write_them():
    assert concept_text.synonyms_from(' feline,  house cat ,,"a, b", 5" disk') == (
        "feline",
        "house cat",
        "a, b",
        '5" disk',
    )


def test_pasted_lines():
    text = "Van Gogh -> an artist\n\n  cat→forest \nBruno => a person\nbird\tsky\nlonely\na -> b -> c\n"
    text += "one --> 1\ntwo —> 2\nthree ==> 3\nfour ⇒ 4\nfive – 5\nsix,\n"
    found = [(c.phrase, c.mapping) for c in concept_text.pasted(text, "style")]
    assert found == [
        ("Van Gogh", "an artist"),
        ("cat", "forest"),
        ("Bruno", "a person"),
        ("bird", "sky"),
        ("lonely", ""),
        ("a", "b -> c"),
        ("one", "1"),
        ("two", "2"),
        ("three", "3"),
        ("four", "4"),
        ("five – 5", ""),
        ("six", ""),
    ]
    assert {c.kind for c in concept_text.pasted(text, "style")} == {"style"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- cat -> dog\n- owl", [("cat", "dog"), ("owl", "")]),
        ("  •\tcat\n  * owl → sky", [("cat", ""), ("owl", "sky")]),
        ("1. cat\n2) owl\n10. T-800", [("cat", ""), ("owl", ""), ("T-800", "")]),
        ("1. FC Köln", [("1. FC Köln", "")]),
        ("- cat\nowl", [("- cat", ""), ("owl", "")]),
        ("-cat\n3.5 mm jack", [("-cat", ""), ("3.5 mm jack", "")]),
        ('"cat" -> “dog”\n«Ada Finch»', [("cat", "dog"), ("Ada Finch", "")]),
        ('"whale, sea"\n1 "', [("whale, sea", ""), ('1 "', "")]),
        ("\"Weird Al\" Yankovic\nO'Neill\n\"a\" or \"b\"", [
            ('"Weird Al" Yankovic', ""), ("O'Neill", ""), ('"a" or "b"', ""),
        ]),
    ],
)  # fmt: skip
def test_pasted_lists_have_bullets_numbers_and_quotes(text, found):
    assert concept_text.first_unclear(text) == ""
    assert [(c.phrase, c.mapping) for c in concept_text.pasted(text, "object")] == found


def test_what_is_kept_is_of_the_kind_that_the_model_knows_or_of_the_one_that_its_phrase_looks_like():
    own = Vocabulary({"Ada Finch": "celebrity", "a park": ""}, frozenset())
    kept = ("Taylor Swift", "ada finch", "truck", "a park")
    beside_a_thing = Recipe(concepts=(Concept("car", "street", "object"),), preserve=kept)
    assert kinds.of_kept(beside_a_thing, own) == {
        "taylor swift": "celebrity", "ada finch": "celebrity", "truck": "object", "a park": "object",
    }  # fmt: skip
    beside_a_person = Recipe(
        concepts=(Concept("Elvis", "a man", "celebrity"),), preserve=("lion", "Cher", "Monet style")
    )
    assert kinds.of_kept(beside_a_person, None) == {"lion": "object", "cher": "celebrity", "monet style": "celebrity"}
    prompts = suggestions(beside_a_thing, kinds.of_kept(beside_a_thing, own))
    assert ("kept", "a photo of Taylor Swift") in prompts and ("kept", "a photo of Ada Finch") in suggestions(
        dataclasses.replace(beside_a_thing, preserve=("Ada Finch",)), kinds.of_kept(beside_a_thing, own)
    )
    assert ("kept", "a photo of the lion") in suggestions(beside_a_person, kinds.of_kept(beside_a_person, None))


def test_a_kind_that_nobody_says_is_guessed():
    known = {"ada finch": "celebrity", "claude monet": "style", "sky": ""}
    guessed = {
        "Ada Finch": "celebrity", "Claude Monet": "style", "Mickey Mouse": "celebrity", "Élodie Żak": "celebrity",
        "style of Monet": "style", "A painting by Monet": "style", "Monet style": "style", "Monet-style": "style",
        "Van Gogh": "style", "Vincent van Gogh": "style", "Salvador Dalí": "style", "Monets garden": "object",
        "cat": "object", "sky": "object", "Big cat": "object", "stylesheet": "object",
    }  # fmt: skip
    assert {phrase: kinds.guess(f" {phrase} ", known) for phrase in guessed} == guessed
    text = "Ada Finch -> a person\nstyle of Monet, cat"
    found = concept_text.pasted(text, concept_text.GUESS, "concepts")
    assert [(c.phrase, c.kind) for c in found] == [
        ("Ada Finch", "celebrity"), ("style of Monet", "style"), ("cat", "object"),
    ]  # fmt: skip
    file = concept_text.from_csv(b"phrase,kind\nMickey Mouse,\nAda Finch,object\nMonet style\n")
    assert [c.kind for c in file] == ["celebrity", "object", "style"]


@pytest.mark.parametrize(
    ("comma", "found"),
    [
        ("mapping", [("whale", "sea"), ("cat", "dog, or so")]),
        ("concepts", [("whale", ""), ("sea", ""), ("cat", "dog, or so")]),
        ("phrase", [("whale, sea", ""), ("cat", "dog, or so")]),
    ],
)
def test_a_line_with_a_comma_is_read_as_the_user_says(comma, found):
    text = "whale, sea\ncat -> dog, or so"
    assert concept_text.first_unclear(text) == "whale, sea"
    assert [(c.phrase, c.mapping) for c in concept_text.pasted(text, "object", comma)] == found
    with pytest.raises(RecipeError, match="how “whale, sea” is to be read"):
        concept_text.pasted(text, "object")
    assert concept_text.first_unclear("whale\nsea,\na, b -> c") == ""


def test_the_preview_of_a_list_says_what_is_there_already():
    shown = concept_text.preview([["Cat", "sky", "object", ""]], [Concept("cat", "<b>"), Concept("dog", "")], False)
    assert "2 concepts, which are added to the table." in shown and "In the table already: cat." in shown
    spaced = concept_text.preview([["grand  Piano", "sky", "object", ""]], [Concept("Grand piano", "")], False)
    assert "1 concept, which is added to the table. In the table already: Grand piano." in spaced
    assert "&lt;b&gt;" in shown and "no mapping yet" in shown
    assert "already" not in concept_text.preview([["Cat", "sky", "object", ""]], [Concept("cat", "")], True)
    assert "twice" not in shown + spaced
    assert " Listed twice: owl." in concept_text.preview(
        [], [Concept("Owl", ""), Concept("fox", ""), Concept("owl", "")], True
    )


def test_phrases_of_a_file():
    assert concept_text.phrases_of_file(b"phrase,note\ndog,1\n\nlion\ndog\n") == ["dog", "lion"]
    assert concept_text.phrases_of_file(b"Frida Kahlo\nMonet; x\n") == ["Frida Kahlo", "Monet"]
    quoted = b'sep=;\n"phrase";n\n"Gogh, Vincent van";1\n"the ""Boss""";2\n "a";3\n"loose\n5" pipe, x\n'
    assert concept_text.phrases_of_file(quoted) == ["Gogh, Vincent van", 'the "Boss"', "a", "loose", '5" pipe']
    assert concept_text.phrases_of_file(b"phrase\ndog, x\n") == ["dog"]
    for data in (b"foo,bar\n1,2\n", b"dog;1\nlion;2\n", b'"a, b",c\n'):
        with pytest.raises(RecipeError, match="does not name them"):
            concept_text.phrases_of_file(data)
    assert concept_text.phrases_of_file(b'"a, b",\nc') == ["a, b", "c"]
    assert len(concept_text.phrases_of_file(b'"' + b'""' * 300_000 + b"x")) == 1  # in no time


def test_empty_rows_make_way_for_added_ones():
    rows = [["", " ", "object", ""], ["cat", "", "object", ""]]
    assert concept_text.fresh_rows(rows, [Concept("dog", "sky")]) == [["dog", "sky", "object", ""]]
    with pytest.raises(RecipeError, match="too many"):
        concept_text.fresh_rows(rows, [Concept("dog", "sky")] * MAX_CONCEPTS)


@pytest.mark.parametrize(
    "text",
    [
        "cat,forest,object,feline;kitty\nElsa,art,style,\n",
        "\ufeffphrase,mapping,kind,synonyms\r\ncat,forest,object,feline|kitty\r\nElsa,art,style\r\n",
        "Concept;Maps to;Type;Synonyms\ncat;forest;Object;feline, kitty\nElsa;art;style;\n",
        "concept;target;type;synonym\ncat;forest;Object;feline, kitty\nElsa;art;style;\n",
        "\n\nsynonyms\tphrase\tnote\tmapping\tkind\nfeline;kitty\tcat\t!\tforest\tobject\n\tElsa\t\tart\tstyle\n",
        'phrase,mapping,kind,synonyms\n"cat","forest",object,"feline, kitty"\nElsa,art,style,""\n',
        "phrase,mapping,kind,synonyms\ncat,forest,object,feline;kitty,,,\nElsa,art,style,, \n",
    ],
)
def test_csv(text):
    assert concept_text.from_csv(text.encode()) == [
        Concept("cat", "forest", "object", ("feline", "kitty")),
        Concept("Elsa", "art", "style"),
    ]


def test_quotes_and_commas_in_csv():
    row = ['the "best", cat', "a; b", "object", "one"]
    file = io.StringIO()
    csv.writer(file).writerow(row)
    assert concept_text.from_csv(file.getvalue().encode()) == [Concept(row[0], row[1], "object", ("one",))]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"phrase,mapping\n", "no concept"),
        (b"phrase,mapping,kind\ncat,forest,animal\n", "Line 2 .*animal"),
        (b"cat,forest,object\ndog,sky,object,a,b\n", "Line 2 .*5 cells"),
        (b"foo,bar\n1,2\n", "Line 1 .*does not name its columns"),
        (b"concept,becomes\ncat,forest\n", "“becomes” .* is it the mapping or kind or synonyms"),
        (b'cat,"forest\n', "cannot be read"),
        (b"caf\xe9,forest\n", "UTF-8"),
    ],
)
def test_a_bad_csv_file_is_named_by_its_line(data, says):
    with pytest.raises(RecipeError, match=says):
        concept_text.from_csv(data)


def test_a_recipe_file_must_be_one_that_can_run():
    recipe = Recipe(concepts=(Concept("cat", "forest"),))
    assert form.recipe_of_file(recipe.to_json().encode()) == recipe
    with pytest.raises(RecipeError, match="at least one concept"):
        form.recipe_of_file(Recipe().to_json().encode())
    with pytest.raises(RecipeError, match="UTF-8"):
        form.recipe_of_file(b"\xff\xfe\x00")


def test_every_part_of_the_page_escapes_what_people_type():
    attack = "<img src=x onerror=alert(1)>"
    recipe = Recipe(concepts=(Concept(attack, attack),), preserve=(attack,), about=attack)
    shown = preset_change(Recipe(concepts=(Concept("cat", "forest"),)), recipe)
    shown += charts.loss_curves({attack: [1.0, 2.0]}, 2, [attack], False)
    shown += text.pairs([(attack, attack)]) + text.estimate_missing(attack)
    assert "<img" not in shown
    assert "&lt;img src=x" in shown


def test_the_curve_is_the_density_of_the_method():
    from mace_studio.core.timesteps import density  # noqa: PLC0415 - torch is needed by this test only

    want = density(1000, 200.0, 400.0, 0.05)
    got = [charts.xi(t, 200.0, 400.0, 0.05) for t in range(1000)]
    total = math.fsum(got)
    assert [g / total for g in got] == pytest.approx(want.tolist(), rel=1e-9)


@pytest.mark.parametrize(
    ("losses", "low", "high"),
    [({"a": [3.0, 1.0]}, 0, 3), ({"a": [15.8, 11.2]}, 10, 16), ({"a": [2.0, 2.0]}, 2, None), ({}, 0, 1)],
)
def test_the_axis_of_the_loss_holds_every_value(losses, low, high):
    chart = charts.loss_curves(losses, 10, [], False)
    ticks = [float(part.split("<")[0]) for part in chart.split('class="y"')[1:] for part in [part.split(">", 1)[1]]]
    assert ticks[0] == pytest.approx(low)
    assert high is None or ticks[-1] == pytest.approx(high)


def test_the_losses_are_smoothed_and_keep_their_colours_when_all_is_done():
    values = [float(10 - i) for i in range(10)]  # windows of two: 10, 9.5, 8.5, ...
    assert charts.smoothed(values) == [10.0, *(9.5 - i for i in range(9))]
    assert charts.smoothed([3.0, 1.0]) == [3.0, 1.0]
    chart = charts.loss_curves({"cat": values}, 10, [], False)
    assert charts.LOSS_MEANING in chart and charts.TRAINING_MEANING in charts.loss_curves({"cat": values}, 10, [], None)
    assert "10 → 1.5" in chart and "var(--line-1)" in chart and "var(--line-done)" not in chart
    assert "lower is more" in chart


def test_a_loss_that_is_no_number_leaves_the_chart_standing():
    assert "nan" not in charts.loss_curves({"a": [math.nan, 1.0]}, 2, ["a"], True).split("<svg")[1].split("</svg>")[0]


def test_a_pasted_list_is_read_in_linear_time():
    """A line of blanks took ten seconds at 16,000 of them."""
    for blank in (" ", "\t", "\u3000"):
        begun = time.monotonic()
        concept_text.pasted(f"a{blank * 500_000}b", "object", "phrase")
        concept_text.first_unclear(f"a,{blank * 500_000}b")
        assert time.monotonic() - begun < 1.0
    begun = time.monotonic()
    concept_text.synonyms_from('"' + '""' * 9_000)
    concept_text.synonyms_from('"a,' * 6_000)
    assert time.monotonic() - begun < 1.0
    assert concept_text.pasted("Van Gogh   ->   an artist", "style") == [Concept("Van Gogh", "an artist", "style")]


def test_a_list_of_too_many_is_refused_and_of_many_the_first_are_shown():
    many = "\n".join(f"thing {i} -> forest" for i in range(10_001))
    with pytest.raises(RecipeError, match="10001 concepts are too many"):
        concept_text.pasted(many, "object")
    with pytest.raises(RecipeError, match="concepts are too many"):
        concept_text.from_csv(b"phrase,mapping\n" + b"cat,dog\n" * 10_001)
    with pytest.raises(RecipeError, match="10001 preserve are too many"):
        concept_text.phrases_of_file(many.encode())
    shown = concept_text.preview([], concept_text.pasted(many.rpartition("\n")[0], "object"), False)
    assert shown.count("<li>") == 51 and "10000 concepts" in shown and "and 9,950 more" in shown


def test_of_a_line_of_too_many_no_concept_is_made(monkeypatch):
    """Half a million of them took 7.5 seconds, and then were refused."""
    monkeypatch.setattr(concept_text, "Concept", None)
    with pytest.raises(RecipeError, match="500000 concepts are too many"):
        concept_text.pasted("a," * 500_000, "object", "concepts")


def test_a_number_that_python_does_not_write_is_refused():
    for path, kind in (("lora.rank", int), ("lora.alpha", float)):
        with pytest.raises(RecipeError, match="is not a number here"):
            form.number(path, 10**6000, kind)


def test_what_a_program_sends_is_a_recipe_or_a_sentence():
    deep: list = []
    for _ in range(2000):
        deep = [deep]
    for odd in ({"concepts": deep}, {"concepts": {1, 2}}, {"concepts": [object()]}):
        with pytest.raises(RecipeError, match="This is not a recipe"):
            Recipe.from_data(odd)
    assert Recipe.from_data({"concepts": [{"phrase": "cat", "mapping": "dog"}]}).concepts == (Concept("cat", "dog"),)


def test_lists_that_are_too_long_are_refused_before_they_are_read():
    long = "a\n" * 2**20
    with pytest.raises(RecipeError, match="2,097,152 characters; at most 1,048,576"):
        concept_text.pasted(long, "object")
    assert concept_text.first_unclear("a,b\n" * 2**20) == ""
    for read in (concept_text.from_csv, concept_text.phrases_of_file):
        with pytest.raises(RecipeError, match="at most 1,048,576"):
            read(long.encode())
    with pytest.raises(RecipeError, match="bytes; at most 16,777,216"):
        concept_text.decoded(b" " * (2**24 + 1))
    with pytest.raises(RecipeError, match="characters of synonyms"):
        concept_text.synonyms_from("a," * 10_001)
