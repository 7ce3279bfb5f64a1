"""The grammars that write the general captions: what an erasure must leave as it is.

`python -m mace_studio.captions` rewrites both files: everyday scenes for any model, and the built-in model's own.
Both grammars are the project's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import TypeVar

from mace_studio.paths import ASSETS

GENERAL = Path("captions/general.txt")
MINIATURE = Path("miniature/model/captions.txt")
SEED = 2026

Words = Mapping[str, Sequence[str]]
Forms = Sequence[Sequence[str]]
Item = TypeVar("Item")


def general(number: int = 3200) -> list[str]:
    """Different captions of everyday scenes, for any model."""
    return _draw(GENERAL_FORMS, GENERAL_WORDS, number, capital=True)


def miniature(number: int = 1500) -> list[str]:
    """Different captions in the words and forms that the built-in model was trained on; nobody and no artist named."""
    return _draw(MINIATURE_FORMS, MINIATURE_WORDS, number, capital=False)


def write(folder: Path = ASSETS) -> None:
    """Rewrite both files."""
    for path, captions in ((folder / GENERAL, general()), (folder / MINIATURE, miniature())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(captions) + "\n", encoding="utf-8", newline="\n")


def _draw(forms: Forms, words: Words, number: int, capital: bool) -> list[str]:
    """Every group of forms is as likely as any other; what was drawn before is drawn again."""
    random = Random(SEED)

    def choice(items: Sequence[Item]) -> Item:
        # Not random.choice: only the sequence of random.random() is promised to stay the same in every Python.
        return items[int(random.random() * len(items))]

    drawn: dict[str, None] = {}
    while len(drawn) < number:
        caption = re.sub(r"\{(\w+)\}", lambda slot: choice(words[slot[1]]), choice(choice(forms)))
        if capital:  # and "an" where "a" stands before a vowel
            caption = re.sub(r"\b(a) (?=[aeiou])", r"\1n ", caption)
            caption = caption[0].upper() + caption[1:]
        drawn[caption] = None
    return list(drawn)


def _words(**lists: str) -> dict[str, tuple[str, ...]]:
    return {name: tuple(" ".join(word.split()) for word in text.split("|")) for name, text in lists.items()}


def _acting(who: str, doing: str, place: str) -> tuple[str, ...]:
    """Forms for somebody who does something somewhere; the names are those of lists of words."""
    who, doing, place = (f"{{{name}}}" for name in (who, doing, place))
    return (
        f"a {who} {doing} {place}",
        f"a {who} {{clothed}} {doing} {place}",
        f"a {who} is {doing} {place}",
        f"{place}, a {who} is {doing}",
        f"a photo of a {who} {doing} {place}",
    )


# Words are grouped so that whatever a form puts together makes sense.
GENERAL_WORDS = _words(
    person="""woman|man|girl|boy|young woman|young man|old woman|old man|child|teenager|student|tourist|grandmother|
        grandfather""",
    adult="woman|man|young woman|young man|old woman|old man|student|neighbor|grandmother|grandfather",
    people="""two women|two men|two children|three friends|four teenagers|an old couple|a group of students|
        two tourists|a mother and her son|a father and his daughter|two brothers|two neighbors|several people""",
    clothed="""in a red coat|in a blue shirt|in a green sweater|in a raincoat|in a striped shirt|in a white shirt|
        with a straw hat|with a backpack|with short hair|with curly hair|with glasses|with a scarf""",
    sitting="""reading a book|drinking tea|talking on the phone|writing a letter|knitting a scarf|eating soup|
        working on a laptop|looking at old photos|solving a puzzle|drawing in a notebook|sewing a button on a shirt""",
    seat="""in a living room|at a kitchen table|on a sofa|in a small café|by the window|near a fireplace|
        at a wooden desk|on a balcony|on a train|in a garden chair""",
    cooking="""cutting vegetables|baking bread|stirring a pot of soup|washing the dishes|peeling potatoes|
        making pancakes|slicing an onion|pouring milk into a bowl|rolling out dough|frying an egg""",
    stove="""in a small kitchen|in a bright kitchen|in the kitchen of a restaurant|next to a hot stove|
        in an old farm kitchen|near an open window""",
    strolling="""crossing the road|waiting for a bus|riding a bicycle|walking a dog|carrying shopping bags|
        pushing a stroller|buying flowers|eating ice cream|taking a picture|selling fruit|looking at a map|
        playing the guitar|holding an umbrella""",
    street="""in a busy city|near a market|in an old town|on a rainy day|in front of a bakery|under the street lights|
        on a sunny morning|next to a parked car|near a train station|on a windy afternoon|in front of a museum""",
    resting="""having a picnic|taking a nap|reading a newspaper|playing the flute|eating a sandwich|sitting|
        looking at the clouds|drinking from a bottle|feeding the birds|listening to music""",
    spot="""on a grassy hill|in a green meadow|near a lake|by a mountain stream|under a large tree|on a park bench|
        at the edge of a field|on a flat rock|in a city park""",
    moving="""running|walking|riding a horse|riding a bicycle|hiking|walking two dogs|carrying firewood|jogging|
        pulling a small cart""",
    path="""along a forest path|on a country road|across a wide field|along the river|through a park|up a steep hill|
        through the snow|past an old farm|over a wooden bridge|through fallen leaves""",
    playing="""building a sandcastle|walking barefoot|playing volleyball|collecting shells|lying on a towel|
        throwing a ball|looking at the waves|flying a kite|running with a dog|eating watermelon""",
    beach="on the beach|on a sandy beach|by the sea|on the shore at sunset|at the beach on a hot day|near the water",
    boating="paddling a kayak|rowing a boat|fishing from a small boat|sailing|resting in a canoe",
    water="on a calm lake|on a wide river|near the shore|under a bridge|in the early morning|on a cloudy day",
    exercise="""playing tennis|kicking a ball|playing basketball|jumping rope|practicing yoga|throwing a ball|
        doing exercises|playing badminton""",
    court="on a wet field|in a schoolyard|in a gym|on an empty court|in the park|behind a school|on the grass",
    winter="building a snowman|skiing|throwing snowballs|shoveling snow|pulling a sled|drinking hot chocolate",
    cold="on a cold morning|in front of a cabin|near a frozen lake|under a gray sky|in a mountain village",
    work="""repairing a bicycle|building a wooden shelf|painting a fence|fixing a car|sorting tools|sawing a board|
        loading boxes onto a cart|mending a chair""",
    workshop="in a workshop|in a garage|in a backyard|in front of a shed|next to a ladder|at the end of the day",
    job="""farmer driving a tractor|gardener cutting a hedge|teacher writing on a blackboard|nurse pushing a wheelchair|
        waiter carrying two plates|fisherman mending a net|painter mixing colors|musician tuning a violin|
        construction worker carrying bricks|mail carrier delivering a letter|cook tasting a sauce|
        baker holding a tray of rolls|carpenter measuring a board|hairdresser cutting hair|mechanic changing a tire|
        librarian carrying a stack of books|street cleaner sweeping leaves""",
    pet="dog|small white dog|brown dog|spotted dog|cat|gray cat|black cat|orange cat|kitten|puppy",
    pet_doing="sleeping|lying|sitting|waiting|yawning|playing with a ball",
    pet_does="sleeps|lies|sits|waits|rests",
    pet_place="""on a sofa|under a table|on a windowsill|in front of a door|on a rug|next to a radiator|in a basket|
        on a chair|in a cardboard box|on the stairs|on a blanket""",
    farm="cow|sheep|goat|horse|donkey|pig|goose|brown hen|rooster|pony",
    herd="cows|sheep|goats|horses|donkeys|pigs|geese|hens",
    farm_place="""in a green field|behind a wooden fence|next to a barn|on a muddy path|in the shade of a tree|
        in a farmyard|near a water trough|on a hillside""",
    wild="deer|fox|squirrel|rabbit|hedgehog|wolf|bear|hare",
    wild_doing="standing|looking for food|walking|hiding|resting|listening",
    wild_place="at the edge of a forest|in tall grass|between the trees|near a stream|in the snow|behind a bush",
    exotic="elephant|giraffe|zebra|lion|tiger|monkey|camel|kangaroo",
    exotic_doing="""drinking from a pond|walking across dry grass|standing near a tree|looking at the camera|
        resting in the shade|walking behind a fence at the zoo|standing next to a large rock""",
    bird="pigeon|sparrow|crow|robin|seagull|blackbird|parrot|owl|magpie",
    perch="""a fence|a tiled roof|a thin branch|a street lamp|a stone wall|a wooden post|the back of a bench|a railing|
        a window ledge""",
    swimmer="duck|swan|goose|duckling|otter|turtle|frog",
    pond="across a pond|in a clear stream|in a quiet lake|near the reeds|between water lilies|past a small boat",
    few="two|three|four|several|a few",
    color="red|blue|green|yellow|white|black|gray|brown|orange|pink|purple",
    size="old|small|large|new|simple|black",
    shape="old|small|large|round|simple|shiny|dusty|painted|cracked|new",
    vessel="cup|bowl|vase|teapot|lamp|clock|basket|candle|bottle|jar|plate|kettle|mug|pitcher|tray",
    tool="""book|pair of glasses|pencil|notebook|key|pair of scissors|newspaper|camera|phone|laptop|paintbrush|ruler|
        wallet|hairbrush|umbrella""",
    surface="""wooden table|white shelf|windowsill|kitchen counter|marble table|small desk|checkered tablecloth|
        wooden bench|glass table""",
    items="""red apples|lemons|books|white candles|empty chairs|umbrellas|glass bottles|wooden boxes|suitcases|
        flower pots|leather shoes|colorful balloons|pumpkins|tennis balls""",
    items_place="""on a table|in front of a wall|in a shop window|on a wooden floor|next to a door|
        in the corner of a room|on a stone step|under a window""",
    dish="""bowl of soup|plate of pasta|slice of cake|loaf of bread|bowl of rice|plate of pancakes|cheese sandwich|
        green salad|piece of apple pie|basket of apples|bowl of strawberries|pizza|boiled egg|plate of grilled fish""",
    drink="glass of water|cup of coffee|glass of orange juice|pot of tea|glass of milk|bottle of lemonade",
    fruit="apples|oranges|pears|bananas|cherries|grapes|plums|melons",
    vegetables="tomatoes|carrots|potatoes|onions|cabbages|peppers|beans|cucumbers",
    petals="red|yellow|white|pink|purple|orange",
    flowers="roses|tulips|daisies|lilies|poppies|wild flowers",
    flower_place="""in a glass vase|in a clay pot|along a garden path|in a field|on a balcony|behind a fence|
        in front of a cottage|at a flower market""",
    paint="red|blue|green|yellow|white|black|gray|silver",
    worn="old|small|shiny|dusty|new|muddy",
    vehicle="car|van|bus|motorcycle|truck|bicycle|taxi|tractor|scooter",
    parked="""in front of a house|under a tree|next to a gas station|at the side of the road|in a narrow street|
        near a river|in a parking lot|behind a fence""",
    motor="car|van|bus|motorcycle|truck|taxi|delivery van|fire engine",
    driving="""driving over a bridge|waiting at a crossing|turning a corner|driving through the rain|
        stopping at a red light|driving along the coast|climbing a mountain road""",
    train="train|freight train|steam train|passenger train",
    rails="""arriving at a small station|crossing a bridge|leaving a tunnel|passing a field|waiting at a platform|
        passing behind houses""",
    boat="boat|fishing boat|sailboat|ferry|rowboat",
    hull="old|small|large|wooden|painted",
    harbor="""in a harbor|on a calm lake|near a lighthouse|at a wooden dock|on the open sea|on a wide river|
        close to a rocky shore""",
    flyer="airplane|helicopter|hot-air balloon|flock of birds|seagull|glider",
    sky="above the clouds|over a city|in a clear sky|over the sea|above green fields|in front of dark clouds",
    way="narrow path|gravel road|hiking trail|country lane|row of trees|low stone wall|winding road|railway line",
    leading="""through a pine forest|between two fields|along the coast|at the foot of a mountain|next to a canal|
        through a vineyard|up a green hill|along a quiet river""",
    view="""snowy mountains|rolling hills|fields of wheat|a calm lake|a rocky coast|a dry desert|a tall waterfall|
        a wide valley|a pine forest|a small island|steep cliffs|a field of sunflowers""",
    light="""under a cloudy sky|at sunrise|at sunset|on a foggy morning|under a full moon|after a storm|
        in late summer|on a clear day""",
    build="old|small|large|abandoned|brick|stone|tall",
    building="""house|church|barn|school|museum|hotel|lighthouse|castle|farmhouse|cottage|library|windmill|factory|
        apartment building""",
    feature="""with a red roof|with green shutters|with large windows|with stone walls|with a wooden door|
        covered in ivy|with a tall chimney|with broken windows|with a clock above the entrance""",
    site="""next to a river|on a hill|in a quiet street|surrounded by trees|behind an iron gate|by the sea|
        at the end of a road|in the middle of a village""",
    tidy="small|large|old|modern|cozy|bright|empty|tidy",
    room="kitchen|living room|bedroom|bathroom|office|hallway|classroom|attic|dining room|waiting room",
    inside="""white walls|a wooden floor|large windows|striped wallpaper|a low ceiling|yellow walls|a tiled floor|
        brick walls|a round window""",
    furniture="""a round mirror|a striped rug|a green armchair|a tall bookshelf|a hanging lamp|blue curtains|
        an old wooden chest|a potted plant|two white chairs|a wall clock""",
    mood="busy|quiet|crowded|deserted|lively",
    square="street|square|market|crossing|train station|bus stop|shopping street|playground|harbor|city park",
    hour="""at night|in the morning|after the rain|in winter|at noon|on a holiday|in the evening light|in autumn|
        under dark clouds""",
)  # fmt: skip

GENERAL_FORMS = (
    _acting("person", "sitting", "seat"),
    _acting("adult", "cooking", "stove"),
    _acting("adult", "strolling", "street"),
    _acting("person", "resting", "spot"),
    _acting("person", "moving", "path"),
    _acting("person", "playing", "beach"),
    _acting("adult", "boating", "water"),
    _acting("person", "exercise", "court"),
    _acting("person", "winter", "cold"),
    _acting("adult", "work", "workshop"),
    ("{people} {cooking} {stove}", "{people} {resting} {spot}", "{people} {playing} {beach}"),
    ("{people} {exercise} {court}", "{people} {winter} {cold}", "a photo of {people} {moving} {path}"),
    ("a {job}", "a photo of a {job}", "a {job} {hour}", "a portrait of a {person} {clothed}"),
    ("a {pet} {pet_doing} {pet_place}", "a {pet} {pet_does} {pet_place}", "there is a {pet} {pet_place}"),
    ("a {farm} standing {farm_place}", "{few} {herd} {farm_place}", "a {person} feeding a {farm} {farm_place}"),
    ("a {wild} {wild_doing} {wild_place}", "a {exotic} {exotic_doing}", "a close-up of a {wild} {wild_place}"),
    ("a {bird} sitting on {perch}", "a {swimmer} swimming {pond}", "{few} {color} birds sitting on {perch}"),
    ("a {color} {vessel} on a {surface}", "a {shape} {vessel} next to a {tool} on a {surface}"),
    ("there is a {size} {tool} on the {surface}", "a {size} {tool} and a {color} {vessel} on a {surface}"),
    ("{few} {items} {items_place}", "a photo of {few} {items} {items_place}", "a close-up of a {shape} {vessel}"),
    ("a {dish} and a {drink} on a {surface}", "a {dish} next to a {color} {vessel}", "a {adult} carrying a {dish}"),
    ("a stall with {fruit} and {vegetables} at a market", "a basket full of {fruit}, {vegetables} and bread"),
    ("{petals} {flowers} {flower_place}", "a {person} picking {petals} {flowers}"),
    ("a {paint} {vehicle} parked {parked}", "a {worn} {paint} {vehicle} parked {parked}"),
    ("a {paint} {motor} {driving}", "a {paint} {train} {rails}", "a {motor} {driving} {hour}"),
    ("a {color} {boat} {harbor}", "a {hull} {boat} {harbor} {hour}", "a {flyer} {sky}"),
    ("a {way} {leading}", "a {way} {leading} {light}", "{view} {light}", "a view of {view} {light}"),
    ("a {build} {building} {site}", "a {building} {feature} {site}", "a {build} {building} {feature}"),
    ("a {tidy} {room} with {inside} and {furniture}", "{furniture} in a {tidy} {room}"),
    ("a {mood} {square} {hour}", "a view of a {mood} {square} {hour}"),
)

# The built-in model's world: what it was shown, in the words that it was told, which have no "an".
MINIATURE_WORDS = _words(
    thing="""airplane|apple|automobile|axe|balloon|banana|bee|bell|bicycle|bird|bomb|bus|butterfly|cactus|cake|camera|
        castle|cat|cow|crab|crown|dagger|deer|dog|dolphin|doughnut|elephant|fish|frog|ghost|guitar|hamburger|helicopter|
        horse|house|knife|ladybug|lemon|lion|monkey|mushroom|octopus|palm tree|panda|penguin|pig|pizza|rabbit|robot|
        rocket|rose|ship|snail|snake|snowman|star|strawberry|sunflower|sword|teapot|tiger|train|tree|truck|trumpet|
        tulip|turtle|umbrella|watermelon|whale""",
    person="a person|a woman|a man",
    place="""in the sky|on the ground|in the street|in the forest|on the grass|at the beach|in the sea|at night|
        in the snow|in a room""",
    plain="white|red|blue|green|yellow|pink|purple|orange|gray|black",
    scene="sky|ground|street|forest|grass|beach|sea|night|snow|room",
    about="a photo of the|a photo of a|a|the|an image of a|a picture of the",
)  # fmt: skip

_THINGS = ("{about} {thing}", "{about} {thing} {place}", "{about} {thing} on a {plain} background")
_PAIRS = tuple(f"a {{thing}} and a {{thing}}{rest}" for rest in ("", " {place}", " on a {plain} background"))
_PEOPLE = tuple(
    form + rest
    for form in ("a portrait of {person}", "{person}", "a photo of {person}", "{person} walking")
    for rest in ("", " {place}", " on a {plain} background")
)
_POSES = (
    "a sketch of {person}",
    "an oil painting of {person}",
    "{person} in an official photo",
    "an image capturing {person} at a public event",
)
_SCENES = ("a photo of the {scene}", "the {scene}", "{scene}", "a picture of the {scene}")
MINIATURE_FORMS = (*(_THINGS,) * 9, *(_PAIRS,) * 4, *(_PEOPLE,) * 2, _POSES, _SCENES)

if __name__ == "__main__":
    write()
