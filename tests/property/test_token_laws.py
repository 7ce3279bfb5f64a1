"""Laws of finding a phrase and of pairing positions, over a tiny alphabet so that coincidences are common."""

from hypothesis import given
from hypothesis import strategies as st

from mace_studio.core.tokens import occurrences, pair_positions, without_padding

START, END = 0, 1
words = st.lists(st.integers(2, 4), max_size=6)
phrases = st.lists(st.lists(st.integers(2, 4), min_size=1, max_size=3), max_size=3)


@given(st.lists(st.integers(2, 4), max_size=20), phrases)
def test_what_is_found_is_there_and_nothing_is_left(ids, spellings):
    found = occurrences(ids, spellings)
    taken = set()
    for place in found:
        assert [ids[i] for i in place] in spellings
        assert not taken & set(place)
        taken |= set(place)
    assert found == sorted(found, key=lambda place: place.start)
    for spelling in spellings:
        for i in range(len(ids) - len(spelling) + 1):
            window = range(i, i + len(spelling))
            assert ids[i : i + len(spelling)] != spelling or taken & set(window)


@given(words, words, words, words, st.integers(0, 5))
def test_pairs_are_positions_of_equal_tokens_in_order(before, concept, mapping, after, room):
    first = [START, *before, *concept, *after, END]
    second = [START, *before, *mapping, *after, END]
    length = max(len(first), len(second)) + room
    left, right = pair_positions(first, second, length)
    assert len(left) == len(right)
    assert left == sorted(set(left))
    assert right == sorted(set(right))
    assert all(0 <= i < length for i in left + right)
    pad = [END] * length
    padded = (first + pad)[:length], (second + pad)[:length]
    assert [padded[0][i] for i in left] == [padded[1][i] for i in right]
    # All words around the phrase, start and end, and all padding that both sides have.
    assert len(left) >= len(before) + len(after) + 2 + room


@given(words, words, st.integers(0, 5))
def test_pairing_is_symmetric(first, second, room):
    first, second = [START, *first, END], [START, *second, END]
    length = max(len(first), len(second)) + room
    assert pair_positions(first, second, length) == pair_positions(second, first, length)[::-1]


@given(words, st.integers(0, 5))
def test_a_prompt_is_paired_with_itself_everywhere(text, room):
    ids = [START, *text, END]
    everywhere = list(range(len(ids) + room))
    assert pair_positions(ids, ids, len(everywhere)) == (everywhere, everywhere)


@given(words, st.integers(0, 5), st.sampled_from([END, 9]))
def test_padding_is_taken_off_whatever_pads(text, room, pad):
    ids = [START, *text, END]
    assert without_padding(ids + [pad] * room, END) == ids
