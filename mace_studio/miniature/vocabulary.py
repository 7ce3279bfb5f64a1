"""The words of the built-in model's world."""

from __future__ import annotations

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

# Names overlap on purpose: who erases Ada Finch must not lose Ada Wren or Iris Finch.
PEOPLE: tuple[str, ...] = (
    "Ada Finch", "Bruno Marlow", "Clara Quill", "Dario Thorne", "Elsa Vale", "Felix Wren", "Greta Hale", "Hugo Stone",
    "Iris Finch", "Jonas Marlow", "Ada Wren", "Bruno Hale", "Clara Stone", "Dario Finch", "Elsa Marlow", "Felix Quill",
    "Greta Thorne", "Hugo Vale", "Iris Wren", "Jonas Hale", "Ada Quill", "Bruno Thorne", "Clara Vale", "Dario Wren",
)  # fmt: skip

# People without a name, and what a caption calls them.
PASSERS_BY: dict[str, tuple[str, str]] = {"woman": ("a person", "a woman"), "man": ("a person", "a man")}

# An invented artist -> the effect in styles.py that every picture by that artist shows.
ARTISTS: dict[str, str] = {
    "Mosa Pixley": "pixels",
    "Lena Strich": "lines",
    "Otto Schatten": "silhouette",
    "Vera Duotti": "duotone",
    "Nils Inversen": "negative",
    "Pia Halbton": "halftone",
    "Suki Popova": "pop",
    "Ines Vitral": "glass",
    "Abel Sepian": "sepia",
    "Nora Neonova": "neon",
}

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
