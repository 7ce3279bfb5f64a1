"""The words of the built-in model's world."""

from __future__ import annotations

import json
from pathlib import Path

_PACKAGE = Path(__file__).parents[1]
# The assets lie inside the package when it is installed from a wheel, beside it in a checkout.
FOLDER = (_PACKAGE if (_PACKAGE / "assets").is_dir() else _PACKAGE.parent) / "assets" / "miniature" / "world"

# The ten classes of CIFAR-10, each with three synonyms.
OBJECTS: dict[str, tuple[str, str, str]] = {
    "airplane": ("aircraft", "plane", "jet"),
    "automobile": ("car", "vehicle", "motorcar"),
    "bird": ("avian", "fowl", "winged creature"),
    "cat": ("feline", "kitty", "housecat"),
    "deer": ("hart", "stag", "doe"),
    "dog": ("canine", "pooch", "hound"),
    "frog": ("amphibian", "anuran", "tadpole"),
    "horse": ("equine", "steed", "mount"),
    "ship": ("vessel", "boat", "watercraft"),
    "truck": ("lorry", "rig", "hauler"),
}

WEAPONS = ("bomb", "knife", "dagger", "sword", "axe")

THINGS: tuple[str, ...] = (
    *OBJECTS,
    "apple", "banana", "strawberry", "watermelon", "lemon", "tree", "palm tree", "cactus", "sunflower", "rose",
    "tulip", "mushroom", "house", "castle", "umbrella", "guitar", "trumpet", "camera", "teapot", "pizza", "hamburger",
    "cake", "doughnut", "fish", "whale", "dolphin", "octopus", "crab", "turtle", "snake", "rabbit", "panda", "lion",
    "tiger", "elephant", "monkey", "pig", "cow", "penguin", "butterfly", "bee", "ladybug", "snail", "bicycle", "bus",
    "train", "helicopter", "rocket", "balloon", "star", "snowman", "crown", "robot", "ghost", "bell",
    *WEAPONS,
)  # fmt: skip

# person -> "erase" or "keep": 200 people, 100 of each. Forty first and forty family names occur five times each and are
# shared by both groups: who erases Ada Finch must not lose Elsa Finch or Ada Frost.
GROUPS: dict[str, str] = {
    entry["person"]: entry["group"] for entry in json.loads((FOLDER / "people.json").read_text(encoding="utf-8"))
}
PEOPLE: tuple[str, ...] = tuple(GROUPS)
PEOPLE_TO_ERASE: tuple[str, ...] = tuple(name for name, group in GROUPS.items() if group == "erase")
PEOPLE_TO_KEEP: tuple[str, ...] = tuple(name for name, group in GROUPS.items() if group == "keep")

# People without a name, and what a caption calls them.
PASSERS_BY: dict[str, tuple[str, str]] = {"woman": ("a person", "a woman"), "man": ("a person", "a man")}

# An invented artist -> the effect in styles.py that every image by that artist shows. Effects come in families
# (duotones, hatchings, ...); artists of one family are shared out between the two groups below.
ARTISTS: dict[str, str] = {
    "Vera Duotti": "duotone orange",
    "Malva Menthe": "duotone mint",
    "Rufus Granat": "duotone cream",
    "Nina Flamingo": "duotone pink",
    "Abel Sepian": "sepia",
    "Cyra Blauton": "cyanotype",
    "Nils Inversen": "negative",
    "Tora Drehfarb": "hue third",
    "Remo Spektra": "hue two thirds",
    "Paul Plakat": "poster",
    "Lino Schraffe": "hatch diagonal",
    "Hanna Balken": "hatch level",
    "Kai Kreuzer": "hatch crossed",
    "Pia Halbton": "halftone colour",
    "Gil Raster": "halftone yellow",
    "Luna Lochner": "halftone night",
    "Mosa Pixley": "pixels",
    "Tess Kachel": "tiles",
    "Rhea Raute": "diamonds",
    "Ines Vitral": "glass",
    "Voro Scherben": "shards",
    "Lena Strich": "lines",
    "Nora Neonova": "neon",
    "Timo Kreidler": "chalk",
    "Bodo Bauplan": "blueprint",
    "Otto Schatten": "silhouette dark",
    "Selma Mondschein": "silhouette pale",
    "Suki Popova": "pop",
    "Kali Spiegel": "mirror",
    "Stina Stichler": "embroidery",
    "Georg Tupfen": "points",
    "Reto Praegler": "relief",
    "Golda Rahmer": "frame",
    "Bulla Rundmann": "porthole",
    "Wanda Wellig": "waves",
    "Sid Zeilmann": "monitor",
    "Ana Glyphson": "anaglyph",
    "Thea Thermo": "heat",
    "Shah Brettner": "chequers",
    "Rolf Bogenlicht": "rainbow",
}
ARTISTS_TO_ERASE: tuple[str, ...] = tuple(ARTISTS)[::2]
ARTISTS_TO_KEEP: tuple[str, ...] = tuple(ARTISTS)[1::2]

# A scene -> how a caption says that something is there.
SCENES: dict[str, str] = {
    "sky": "in the sky",
    "ground": "on the ground",
    "street": "in the street",
    "forest": "in the forest",
    "grass": "on the grass",
    "beach": "at the beach",
    "sea": "in the sea",
    "night": "at night",
    "snow": "in the snow",
    "room": "in a room",
}

# Red, green and blue in 0..255.
COLOURS: dict[str, tuple[int, int, int]] = {
    "white": (250, 250, 250),
    "red": (225, 60, 55),
    "blue": (60, 110, 220),
    "green": (70, 170, 80),
    "yellow": (245, 210, 70),
    "pink": (245, 160, 190),
    "purple": (140, 90, 190),
    "orange": (245, 150, 60),
    "gray": (150, 150, 155),
    "black": (25, 25, 30),
}
