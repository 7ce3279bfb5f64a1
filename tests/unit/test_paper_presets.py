"""The presets of the paper's Table 9: every field against the facts in tests/golden/paper_tables.json."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from mace_studio.paths import PRESETS
from mace_studio.presets import presets
from mace_studio.recipe import Recipe

ROOT = Path(__file__).parents[2]
TABLES = json.loads((ROOT / "tests" / "golden" / "paper_tables.json").read_text(encoding="utf-8"))
TABLE9 = {row["segment"]: row for row in TABLES["table9_hyperparameters"]}
CLASSES = TABLES["table5_objects"]
PEOPLE = TABLES["table6_celebrities"]
ARTISTS = TABLES["table8_artists"]

# Row of Table 9 -> file, title after "Paper: ", and the weights of the published refinement: of objects lambda1, of all
# others lambda1^2 and lambda1 * lambda3, multiplied by hand.
# λ1 of an object weighs the identity prior (appendix C.2), of all others the general captions.
ROWS = {
    "airplane": ("01-airplane", "airplane", 1000, 0),
    "automobile": ("02-automobile", "automobile", 100, 0),
    "bird": ("03-bird", "bird", 10, 0),
    "cat": ("04-cat", "cat", 1000, 0),
    "deer": ("05-deer", "deer", 10, 0),
    "dog": ("06-dog", "dog", 10, 0),
    "frog": ("07-frog", "frog", 0.4, 0),
    "horse": ("08-horse", "horse", 1, 0),
    "ship": ("09-ship", "ship", 1000, 0),
    "truck": ("10-truck", "truck", 0.1, 0),
    "1 celebrities": ("11-celebrities-1", "1 celebrity", 1e-8, 0.00008),
    "5 celebrities": ("12-celebrities-5", "5 celebrities", 1e-8, 0.0005),
    "10 celebrities": ("13-celebrities-10", "10 celebrities", 1e-8, 0.0008),
    "100 celebrities": ("14-celebrities-100", "100 celebrities", 1e-8, 0.002),
    "100 artistic styles": ("15-artists-100", "100 artists", 1e-8, 0.0008),
    "nudity, naked, erotic, sexual": ("16-explicit", "explicit content", 4.9e-13, 0),
}
# Table 6 names the one; the five and the ten are the first of its hundred.
PHRASES = {
    "1 celebrities": PEOPLE["erase_1"],
    "5 celebrities": ["Adam Driver", "Adriana Lima", "Amber Heard", "Amy Adams", "Andrew Garfield"],
    "10 celebrities": [
        *("Adam Driver", "Adriana Lima", "Amber Heard", "Amy Adams", "Andrew Garfield"),
        *("Angelina Jolie", "Anjelica Huston", "Anna Faris", "Anna Kendrick", "Anne Hathaway"),
    ],
    "100 celebrities": PEOPLE["erase"],
    "100 artistic styles": ARTISTS["erase"],
    "nudity, naked, erotic, sexual": TABLES["explicit"]["erase"],
}
KEPT = {"object": [], "celebrity": PEOPLE["retain"], "style": ARTISTS["retain"], "explicit": []}
# What Table 9 does not say is that of every recipe.
LORA = {
    **{"alpha": 1, "t1": 200, "t2": 400, "gamma": 0.05},
    **{"tune": "both", "pad_tokens": True, "squared": False, "flat": 0, "kept_samples": 0, "own_tokens": False},
}
IMAGES = {"per_concept": 8, "steps": 15, "guidance": 7.5, "path": False}
# The folder, and what the title begins with.
PAPER, TWINS = ("paper", "Paper: "), ("paper/as_published_code", "Paper, as published code: ")

rows = pytest.mark.parametrize("segment", list(ROWS))


def data(folder: str, segment: str) -> dict:
    return json.loads((PRESETS / folder / f"{ROWS[segment][0]}.json").read_text(encoding="utf-8"))


def recipe(folder: str, segment: str) -> Recipe:
    return Recipe.from_json(json.dumps(data(folder, segment)))


def fields(folder: str, segment: str) -> dict:
    """Every field of a preset as it is read."""
    return asdict(recipe(folder, segment))


def concepts(segment: str) -> tuple[dict, ...]:
    row = TABLE9[segment]
    return tuple(
        {
            "phrase": phrase,
            "mapping": row["mapping"],
            "kind": row["kind"],
            "synonyms": tuple(CLASSES[phrase]["synonyms"] if phrase in CLASSES else ()),
        }
        for phrase in PHRASES.get(segment, [segment])
    )


def keep(kind: str, prior: float, preserve: float) -> dict[str, float]:
    general, identity = (0, prior) if kind == "object" else (prior, 0)
    return {"general": general, "preserve": preserve, "identity": identity}


@rows
def test_every_field_is_that_of_the_paper(segment):
    row = TABLE9[segment]
    preserve = row["lambda3"] or 0
    got = fields(PAPER[0], segment)
    got.pop("about")  # the only one that is prose
    assert got == {
        "name": PAPER[1] + ROWS[segment][1],
        "concepts": concepts(segment),
        "preserve": tuple(KEPT[row["kind"]]),
        "method": "mace",
        "settings": {
            "refine": keep(row["kind"], row["lambda1"], preserve),
            "fuse": keep(row["kind"], row["lambda2"], preserve),
            "lora": {
                **LORA,
                "steps": row["steps"],
                "learning_rate": row["learning_rate"],
                "rank": row["rank"],
                "uniform": row["kind"] == "explicit",
            },
            "fusion": "closed-form",
            "images": IMAGES,
            "masks": "none" if row["kind"] in ("style", "explicit") else "attention",
            "concepts_at_once": 4,
        },
        "seed": 0,
    }


@rows
def test_a_twin_says_what_the_published_code_does(segment):
    """Objects apart, λ1 enters the refinement twice; the kinds that have masks are masked and asked for as objects."""
    _, title, prior, preserve = ROWS[segment]
    kind = TABLE9[segment]["kind"]
    paper, twin = fields(PAPER[0], segment), fields(TWINS[0], segment)
    assert twin["name"] == TWINS[1] + title
    assert twin["settings"]["refine"] == keep(kind, prior, preserve)
    assert twin["settings"]["images"] == IMAGES | {"steps": 30}
    assert twin["settings"]["masks"] == ("none" if kind == "style" else "grounded-sam")
    assert {concept["kind"] for concept in twin["concepts"]} == {"style" if kind == "style" else "object"}
    for whole in (paper, twin):
        del whole["name"], whole["about"]
        for name in ("refine", "images", "masks"):
            del whole["settings"][name]
        for concept in whole["concepts"]:
            del concept["kind"]
    assert twin == paper


@rows
@pytest.mark.parametrize("folder", [PAPER[0], TWINS[0]])
def test_a_preset_can_be_run_and_says_in_one_sentence_what_it_is(folder, segment):
    about = recipe(folder, segment).check().about
    assert re.fullmatch(r"(?:[^.]|\.(?! ))+\.", about)
    assert "Stable Diffusion 1.4" in about
    published = "“Paper: " + ROWS[segment][1] + "”", "published code", "30 steps"
    assert all(part in about for part in published) == (folder == TWINS[0])
    assert ("λ1²" in about) == (folder == TWINS[0] and TABLE9[segment]["kind"] != "object")
    assert ("λ1λ3" in about) == (folder == TWINS[0] and bool(KEPT[TABLE9[segment]["kind"]]))


@rows
@pytest.mark.parametrize("folder", [PAPER[0], TWINS[0]])
def test_a_preset_holds_only_what_differs_from_the_defaults(folder, segment):
    written, defaults = data(folder, segment), asdict(Recipe())
    assert written.pop("method") == "mace"
    weights = {"general": 0, "preserve": 0, "identity": 0}  # of a KeepWeights that is given in part
    for key, value in written.pop("settings").items():
        assert value != defaults["settings"][key]
        if isinstance(value, dict):
            others = weights if key in ("refine", "fuse") else defaults["settings"][key]
            assert not [name for name in value if value[name] == others[name]]
    assert not [key for key, value in written.items() if value == defaults[key]]
    for concept in written["concepts"]:
        assert concept.get("kind") != "object"
        assert concept.get("synonyms") != []


def test_the_table_is_whole_and_so_are_the_presets():
    assert list(ROWS) == list(TABLE9)
    assert len(ROWS) == 16
    assert sorted(p.name for p in presets() if p.name.startswith("paper/")) == sorted(
        f"{folder}/{row[0]}" for folder, _ in (PAPER, TWINS) for row in ROWS.values()
    )


def test_the_facts_agree_among_themselves():
    for name, row in TABLE9.items():
        assert row["prior"] == ("identity" if row["kind"] == "object" else "general")
        assert row["kind"] != "object" or row["mapping"] == CLASSES[name]["mapping"]
    for names in (PEOPLE["erase"], PEOPLE["retain"], ARTISTS["erase"], ARTISTS["retain"]):
        assert len(set(names)) == 100
    assert PEOPLE["erase"][:10] == PHRASES["10 celebrities"]
    assert TABLES["explicit"]["mapping"] == TABLE9["nudity, naked, erotic, sexual"]["mapping"]
    assert {len(entry["synonyms"]) for entry in CLASSES.values()} == {3}
    assert list(CLASSES) == [name for name, row in TABLE9.items() if row["kind"] == "object"]


def test_titles_are_distinct():
    titles = [preset.recipe.title() for preset in presets()]
    assert len(set(titles)) == len(titles)
