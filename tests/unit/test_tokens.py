"""Where a concept sits, and which positions belong together. 1 starts a prompt, 2 ends it, 0 pads it."""

import pytest

from mace_studio.core.tokens import occurrences, pair_positions, without_padding

START, END = 1, 2


def test_a_phrase_is_found_every_time_it_occurs():
    assert occurrences([1, 7, 8, 5, 7, 8, 2], [[7, 8]]) == [range(1, 3), range(4, 6)]


def test_a_phrase_is_found_inside_a_longer_prompt_only_whole():
    assert occurrences([1, 5, 7, 6, 7, 8, 2], [[7, 8]]) == [range(4, 6)]
    assert occurrences([1, 5, 7], [[7, 8]]) == []


def test_of_two_spellings_at_one_place_the_longest_counts():
    assert occurrences([1, 7, 8, 9, 7, 8, 2], [[7, 8], [7, 8, 9], [7]]) == [range(1, 4), range(4, 6)]


def test_occurrences_do_not_overlap():
    assert occurrences([7, 7, 7, 7, 7], [[7, 7]]) == [range(0, 2), range(2, 4)]
    # [8, 7] would begin inside the first [7, 8].
    assert occurrences([7, 8, 7], [[7, 8], [8, 7]]) == [range(0, 2)]


def test_an_empty_spelling_is_nowhere():
    assert occurrences([1, 7, 2], [[], [7]]) == [range(1, 2)]
    assert occurrences([1, 7, 2], []) == []
    assert occurrences([], [[7]]) == []


def test_spellings_may_be_an_iterator_of_tuples_or_lists():
    assert occurrences((1, 7, 2), iter([(7,)])) == [range(1, 2)]


@pytest.mark.parametrize(
    ("concept", "mapping", "length", "expected"),
    [
        # "a cat" / "a dog": start and article, end, padding. Position 2, the animal, is left out.
        ([1, 5, 7, 2], [1, 5, 8, 2], 6, ([0, 1, 3, 4, 5], [0, 1, 3, 4, 5])),
        # the same, with words after the animal
        ([1, 7, 5, 6, 2], [1, 8, 5, 6, 2], 6, ([0, 2, 3, 4, 5], [0, 2, 3, 4, 5])),
        # mapping longer by one: its suffix begins one later, and the concept's last padding has no partner
        ([1, 5, 7, 2], [1, 5, 8, 9, 2], 7, ([0, 1, 3, 4, 5], [0, 1, 4, 5, 6])),
        # mapping shorter by two: the mapping's last two paddings have no partner
        ([1, 7, 8, 9, 5, 2], [1, 6, 5, 2], 8, ([0, 4, 5, 6, 7], [0, 2, 3, 4, 5])),
        # no room for padding at all
        ([1, 7, 2], [1, 8, 2], 3, ([0, 2], [0, 2])),
        # longer side fills all positions: no padding has a partner
        ([1, 7, 2], [1, 8, 9, 2], 4, ([0, 2], [0, 3])),
        # equal prompts: every position
        ([1, 5, 7, 2], [1, 5, 7, 2], 6, ([0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5])),
        # "red cat" / "cat": the suffix may not run into the prefix
        ([1, 5, 7, 2], [1, 7, 2], 5, ([0, 2, 3, 4], [0, 1, 2, 3])),
        # "cat cat" / "cat": prefix first, then what is left of the suffix
        ([1, 7, 7, 2], [1, 7, 2], 5, ([0, 1, 3, 4], [0, 1, 2, 3])),
        # the words in common in the middle of a difference are not matched
        ([1, 7, 5, 9, 2], [1, 8, 5, 6, 2], 5, ([0, 4], [0, 4])),
        # nothing in common but the padding
        ([7], [8], 3, ([1, 2], [1, 2])),
    ],
)
def test_co_existing_positions(concept, mapping, length, expected):
    assert pair_positions(concept, mapping, length) == expected
    assert pair_positions(mapping, concept, length) == (expected[1], expected[0])


def test_a_prompt_that_does_not_fit_is_refused_with_both_numbers():
    with pytest.raises(ValueError, match="5 tokens does not fit 4"):
        pair_positions([1, 7, 2], [1, 7, 8, 9, 2], 4)


def test_padding_ends_at_the_first_end_token():
    assert without_padding([1, 7, 8, 2, 0, 0], END) == [1, 7, 8, 2]


def test_padding_with_the_end_token_itself_is_padding():
    assert without_padding([1, 7, 8, 2, 2, 2], END) == [1, 7, 8, 2]


def test_a_text_that_was_cut_off_has_no_padding():
    assert without_padding((1, 7, 8), END) == [1, 7, 8]


def test_pairs_are_the_same_whatever_pads():
    padded_by_end = [[1, 5, 7, 2, 2, 2, 2], [1, 5, 8, 9, 2, 2, 2]]
    padded_by_zero = [[1, 5, 7, 2, 0, 0, 0], [1, 5, 8, 9, 2, 0, 0]]
    pairs = [
        pair_positions(*(without_padding(ids, END) for ids in prompts), 7)
        for prompts in (padded_by_end, padded_by_zero)
    ]
    assert pairs[0] == pairs[1] == ([0, 1, 3, 4, 5], [0, 1, 4, 5, 6])
