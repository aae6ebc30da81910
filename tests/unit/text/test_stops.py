"""Stop strings are found wherever they stand, and nothing that is cut was ever given out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_core.text.stops import CutStop, KeepStop, Piece, StopMatcher


def pieces(*texts):
    return [Piece(i, text, text, False, None, ()) for i, text in enumerate(texts)]


def run(stop_filter, given_pieces):
    """What is given out at each piece, until a stop string is found or the end."""
    out = []
    for piece in given_pieces:
        out.append("".join(p.shown for p in stop_filter.push(piece)))
        if stop_filter.found:
            return out
    out.append("".join(p.shown for p in stop_filter.flush()))
    return out


@pytest.mark.parametrize(
    ("texts", "kept", "cut"),
    [
        (["a", "STOP", "b"], ["a", "STOP"], ["a", ""]),
        (["aSTOPb"], ["aSTOP"], ["a"]),
        (["aST", "OPb", "c"], ["aST", "OP"], ["", "a"]),
        (["S", "T", "O", "P"], ["S", "T", "O", "P"], ["", "", "", ""]),
        (["ST", "x", "y"], ["ST", "x", "y", ""], ["", "STx", "y", ""]),
        (["SS", "TOP"], ["SS", "TOP"], ["", "S"]),
        (["end ST"], ["end ST", ""], ["", "end ST"]),
    ],
)
def test_kept_and_cut(texts, kept, cut):
    assert run(KeepStop(["STOP"]), pieces(*texts)) == kept
    assert run(CutStop(["STOP"]), pieces(*texts)) == cut


def test_without_stop_strings_everything_passes_at_once():
    assert run(CutStop([]), pieces("a", "b")) == ["a", "b", ""]


def test_the_match_that_ends_first_wins_and_of_those_the_longest():
    assert run(CutStop(["lo wor", "low"]), pieces("hello world")) == ["hel"]
    assert run(CutStop(["l", "ell"]), pieces("hello")) == ["he"]
    assert run(CutStop(["llo", "hello"]), pieces("hello")) == [""]


def test_a_special_tokens_name_can_be_a_stop_string():
    end = Piece(9, "<|end|>", "", True, None, ())
    cut = CutStop(["<|end|>"])
    assert [p.shown for p in cut.push(pieces("a")[0])] == ["a"]
    assert cut.push(end) == [] and cut.found
    kept = KeepStop(["<|end|>"])
    assert kept.push(end) == [end] and kept.found and end.text == "<|end|>"


def test_tokens_without_text_pass_in_order():
    cut = CutStop(["xy"])
    out = [p.token for piece in pieces("a", "", "x", "", "b", "") for p in cut.push(piece)]
    assert out == [0, 1, 2, 3, 4, 5]


ALPHABET = "ab"


@given(
    st.text(ALPHABET, max_size=40),
    st.lists(st.text(ALPHABET, min_size=1, max_size=5), min_size=1, max_size=3),
    st.lists(st.integers(0, 40), max_size=10),
)
def test_cutting_does_not_depend_on_how_the_text_is_divided(text, stops, cuts):
    cuts = sorted({min(cut, len(text)) for cut in cuts} | {0, len(text)})
    divided = [text[a:b] for a, b in pairwise(cuts)]
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(ends)[1]] if ends else text
    assert "".join(run(CutStop(stops), pieces(*divided))) == expected
    kept = "".join(run(KeepStop(stops), pieces(*divided)))
    assert kept == (text[: min(ends)[0]] if ends else text)


@given(st.lists(st.text(ALPHABET, min_size=1, max_size=3), max_size=20))
def test_what_was_given_out_stays(texts):
    stop_filter = CutStop(["abba", "bab"])
    so_far = ""
    whole = "".join(run(CutStop(["abba", "bab"]), pieces(*texts)))
    for piece in pieces(*texts):
        so_far += "".join(p.shown for p in stop_filter.push(piece))
        assert whole.startswith(so_far)
        if stop_filter.found:
            break


def test_a_repetitive_text_takes_linear_time():
    matcher = StopMatcher(["a" * 4000 + "b"])
    for _ in range(20_000):
        assert matcher.push("a") is None
    assert matcher.num_matched == 4000
