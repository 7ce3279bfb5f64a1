import unicodedata
from dataclasses import dataclass

import pytest

from mace_studio import phrases


@dataclass(frozen=True)
class Pair:
    phrase: str
    mapping: str


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("grand piano", "grand  piano"), ("grand piano", "grand\tpiano "), ("grand piano", "grand\u00a0piano"),
        ("Cat ", "cat"), ("caf\u00e9", "cafe\u0301"), ("STRASSE", "straße"), ("Dalí", "DALÍ"), ("İstanbul", "i̇stanbul"),
    ],
)  # fmt: skip
def test_phrases_that_are_the_same(first, second):
    assert phrases.distinct([first, second]) == [first] and phrases.distinct([second, first]) == [second]


@pytest.mark.parametrize(
    ("first", "second"), [("cat", "cats"), ("café", "cafe"), ("C++", "C#"), ("grandpiano", "grand piano")]
)
def test_phrases_that_are_not(first, second):
    assert phrases.distinct([first, second]) == [first, second]


@pytest.mark.parametrize(
    ("sentence", "phrase", "expected"),
    [
        ("a bobcat", "cat", []),
        ("a category of cats", "cat", []),
        ("a cat", "cat", ["cat"]),
        ('a Cat\'s tail, (cat) and "CAT".', "cat", ["Cat", "cat", "CAT"]),
        ("Robert Downey Jr., smiling", "Robert Downey Jr.", ["Robert Downey Jr."]),
        ("a bobcat and a cat", "cat", ["cat"]),
        ("grand  piano", "grand piano", ["grand  piano"]),
        ("grand piano", " grand   piano ", ["grand piano"]),
        ("C++ and C#", "c#", ["C#"]),
        ("room 112, room 12", "room 12", ["room 12"]),
        ("R2D2", "R2", ["R2"]),
        ("cat cat", "cat", ["cat", "cat"]),
        ("the İstanbul of old", "istanbul", []),
        ("İstanbul, old", "İstanbul", ["İstanbul"]),
        ("the cat's", "s", []),
        ("Georgia O’Keeffe", "Keeffe", []),
        ("Georgia O'Keeffe's", "Georgia O'Keeffe", ["Georgia O'Keeffe"]),
        ("a ‘cat’ and 'cat'", "cat", ["cat", "cat"]),
        ("a cat", "", []),
        ("a cat", "  ", []),
        ("Beyonce\u0301"[:7], "Beyonce", ["Beyonce"]),
    ],
)
def test_where_a_phrase_stands(sentence, phrase, expected):
    assert [sentence[start:end] for start, end in phrases.spans(sentence, phrase)] == expected


def test_a_phrase_in_another_unicode_form_is_found():
    sentence = unicodedata.normalize("NFC", "a photo of Salvador Dali\u0301, smiling")
    assert [sentence[a:b] for a, b in phrases.spans(sentence, "Dali\u0301")] == ["Dal\u00ed"]


@pytest.mark.parametrize(
    ("pairs", "says"),
    [
        ([Pair("cat", "dog"), Pair("dog", "cat")], ["“cat” maps to “dog” and the other way round"]),
        ([Pair("dog", "Cat "), Pair("cat", "DOG")], ["“cat” maps to “DOG” and the other way round"]),
        ([Pair("cat", "a black cat")], ["“cat” maps to “a black cat”, which contains it"]),
        ([Pair("cat", "dog"), Pair("dog", "fox")], ["“cat” maps to “dog”, which is erased too"]),
        ([Pair("cat", "category"), Pair("Van Gogh", "an artist")], []),
        ([Pair("cat", "dog"), Pair("horse", "dog")], []),
    ],
)  # fmt: skip
def test_what_rarely_means_what_was_meant(pairs, says):
    found = phrases.doubts(pairs)
    assert len(found) == len(says) and all(one.startswith(start) for one, start in zip(found, says, strict=True))
