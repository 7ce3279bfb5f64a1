"""What a concept may be mapped to and what lies beside it, from a small list of everyday things and their groups.

Standard library and the recipe alone: the page asks at every edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mace_studio.phrases import folded
from mace_studio.recipe import Concept, Recipe

MAPPED = {"celebrity": ("a person",), "style": ("art",), "explicit": ("a person wearing clothes",)}


@dataclass(frozen=True)
class Group:
    """Things that a model may take for one another.

    Attributes:
        mappings: what any of them may be mapped to: the group as a whole, and places where none of them belongs.
        words: the things, each by one name.
    """

    mappings: tuple[str, ...]
    words: tuple[str, ...]


GROUPS = (
    Group(
        ("animal", "forest", "grass"),
        (
            "cat", "dog", "horse", "deer", "cow", "pig", "sheep", "rabbit", "lion", "tiger", "panda", "bear", "wolf",
            "fox", "elephant", "monkey", "zebra", "giraffe",
        ),
    ),
    Group(("bird", "sky", "street"), ("bird", "penguin", "duck", "chicken", "owl", "eagle", "parrot", "swan")),
    Group(
        ("animal", "sea", "beach"),
        ("frog", "turtle", "snake", "fish", "whale", "dolphin", "shark", "octopus", "crab", "snail", "lizard"),
    ),
    Group(("insect", "grass", "forest"), ("butterfly", "bee", "ladybug", "spider", "ant", "dragonfly")),
    Group(
        ("vehicle", "street", "ground"),
        ("automobile", "truck", "bus", "train", "bicycle", "motorcycle", "tractor", "ship", "sailing boat"),
    ),
    Group(("aircraft", "sky", "ground"), ("airplane", "helicopter", "rocket", "balloon", "kite")),
    Group(
        ("food", "room", "grass"),
        (
            "apple", "banana", "strawberry", "watermelon", "lemon", "orange", "grape", "pizza", "hamburger", "cake",
            "doughnut", "sandwich", "bread", "cheese",
        ),
    ),
    Group(
        ("plant", "grass", "ground"),
        ("tree", "palm tree", "cactus", "sunflower", "rose", "tulip", "mushroom", "fern", "grass"),
    ),
    Group(("building", "street", "ground"), ("house", "castle", "church", "tower", "bridge", "skyscraper", "tent")),
    Group(
        ("musical instrument", "room", "street"), ("guitar", "trumpet", "piano", "violin", "drum", "flute", "bell")
    ),
    Group(("weapon", "balloon", "umbrella"), ("bomb", "knife", "dagger", "sword", "axe", "gun", "rifle", "grenade")),
    Group(
        ("object", "room", "ground"),
        ("umbrella", "camera", "teapot", "cup", "bottle", "chair", "table", "lamp", "clock", "book", "crown", "star"),
    ),
    Group(("toy", "room", "snow"), ("robot", "snowman", "ghost", "doll", "teddy bear")),
)  # fmt: skip

# Other names of things in the groups.
SAME = {
    "car": "automobile", "motorcar": "automobile", "plane": "airplane", "jet": "airplane", "aircraft": "airplane",
    "boat": "ship", "vessel": "ship", "lorry": "truck", "kitten": "cat", "kitty": "cat", "puppy": "dog", "hound": "dog",
    "donut": "doughnut", "burger": "hamburger", "bike": "bicycle",
}  # fmt: skip


def mappings(concept: Concept, known: Mapping[str, str] | None = None) -> list[str]:
    """What a concept may be mapped to, the best first.

    Args:
        concept: its phrase and kind count.
        known: phrases that the model has learned, where that is known; no other is offered.
    """
    group = _group(concept.phrase)
    found = MAPPED.get(concept.kind) or (group.mappings if group else ("object", "room", "ground"))
    own = _name(concept.phrase)
    return [phrase for phrase in found if _name(phrase) != own and (known is None or phrase in known)]


def of(recipe: Recipe, known: Mapping[str, str], only: bool = False, count: int = 6) -> list[str]:
    """Neighbours of a recipe's concepts that it neither erases nor keeps, those of each concept in turn.

    Things of the same group come first, then names that share a word, then others of the same kind.

    Args:
        recipe: phrases of it, its synonyms and its mappings are no neighbours.
        known: phrase -> its kind, as `presets.known_kinds` and `runtime.vocabulary` have it.
        only: none but known phrases are offered.
        count: at most so many.
    """
    spoken = [text for c in recipe.concepts for text in (c.phrase, c.mapping, *c.synonyms)]
    seen = {_name(text) for text in (*spoken, *recipe.preserve)}
    lists = [_ranked(concept, known, only) for concept in recipe.concepts]
    found: list[str] = []
    while lists and len(found) < count:
        for ranked in list(lists):
            phrase = next((phrase for phrase in ranked if _name(phrase) not in seen), None)
            if phrase is None:
                lists.remove(ranked)
            elif len(found) < count:
                found.append(phrase)
                seen.add(_name(phrase))
    return found


def _ranked(concept: Concept, known: Mapping[str, str], only: bool) -> Iterator[str]:
    if concept.kind == "object":
        group = _group(concept.phrase)
        listed = [*(group.words if group else ()), *(word for other in GROUPS for word in other.words)]
        yield from (word for word in listed if not only or word in known)
        return
    same = [phrase for phrase, kind in known.items() if kind == concept.kind]
    words = set(folded(concept.phrase).split())
    yield from sorted(same, key=lambda phrase: not words & set(folded(phrase).split()))


def _group(phrase: str) -> Group | None:
    name = _name(phrase)
    return next((group for group in GROUPS if name in group.words), None)


def _name(phrase: str) -> str:
    """A phrase as it is compared: folded, without an article, by one name."""
    plain = folded(phrase)
    for article in ("a ", "an ", "the "):
        plain = plain.removeprefix(article)
    return SAME.get(plain, plain)
