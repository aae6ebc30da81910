"""Events become text and an ending by TGI's rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_core.contract import FinishReason, TokenEvent, TopToken
from tgi_core.text.output import Ending, Output
from tgi_core.text.stops import CutStop, KeepStop


def tokens_event(tokens, **more):
    return TokenEvent(request_id="r", tokens=tuple(tokens), **more)


def encode(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False)


def test_tokens_behind_the_end_of_the_text_are_dropped(byte_level):
    output = Output(byte_level, (), KeepStop(["lo"]))
    pieces = output.push(tokens_event(encode(byte_level, "hello world")))
    assert "".join(p.shown for p in pieces) == "hello"
    assert (output.ending, output.num_tokens) == (Ending.STOP, 5)


def test_length_goes_before_a_stop_string_in_the_same_token(byte_level):
    output = Output(byte_level, (), CutStop(["o"]))
    pieces = output.push(tokens_event(encode(byte_level, "hello"), finish=FinishReason.LENGTH))
    assert ("".join(p.shown for p in pieces), output.ending) == ("hell", Ending.LENGTH)


def test_the_end_token_counts_but_is_not_text_and_frees_what_was_held(byte_level):
    output = Output(byte_level, (), CutStop(["lox"]))
    tokens = [*encode(byte_level, "hello"), *byte_level.eos_token_ids]
    pieces = output.push(tokens_event(tokens, finish=FinishReason.EOS))
    assert [p.shown for p in pieces] == ["h", "e", "l", "l", "o", ""]
    assert (pieces[-1].text, pieces[-1].special) == ("</s>", True)
    assert (output.ending, output.num_tokens) == (Ending.EOS, 6)


def test_an_ordinary_token_that_ends_the_sequence_is_not_text_either(byte_level):
    output = Output(byte_level, (), KeepStop([]))
    (token,) = encode(byte_level, "x")
    (piece,) = output.push(tokens_event([token], finish=FinishReason.EOS))
    assert (piece.text, piece.shown, piece.special) == ("x", "", True)


def test_half_a_character_at_the_end_is_replaced(byte_level):
    output = Output(byte_level, (), KeepStop([]))
    half = encode(byte_level, "é")[:1]
    (piece,) = output.push(tokens_event(half, finish=FinishReason.LENGTH))
    assert piece.shown == "\ufffd"


def test_logprobs_and_top_tokens_stay_with_their_token(byte_level):
    output = Output(byte_level, (), KeepStop([]))
    top = ((TopToken(token=1, logprob=-1.0),), (TopToken(token=2, logprob=-2.0),))
    first, second = output.push(tokens_event([1, 2], logprobs=(-1.0, -2.0), top=top))
    assert (first.logprob, first.top, second.logprob, second.top) == (-1.0, top[0], -2.0, top[1])


WRITTEN = "hi é😀¶ðß\u4e2d\u200d"


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("filter_class", [CutStop, KeepStop])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_characters_and_stop_strings_survive_every_division_into_tokens_and_events(
    kind, filter_class, data, request
):
    """Bytes of a character in several tokens, stop strings over borders of both."""
    tokenizer = request.getfixturevalue(kind)
    text = data.draw(st.text(WRITTEN, max_size=25))
    stops = data.draw(st.lists(st.text(WRITTEN, min_size=1, max_size=3), max_size=3))
    tokens = encode(tokenizer, text.replace(" ", "\u2581") if kind == "sentencepiece" else text)
    cuts = data.draw(st.lists(st.integers(0, len(tokens)), max_size=8))
    borders = sorted({0, len(tokens), *cuts})
    output = Output(tokenizer, encode(tokenizer, "hi"), filter_class(stops))
    shown = ""
    for begin, end in pairwise(borders):
        finish = FinishReason.LENGTH if end == len(tokens) else None
        pieces = output.push(tokens_event(tokens[begin:end], finish=finish))
        shown += "".join(piece.shown for piece in pieces)
        if output.ending:
            break
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    end = min(ends, default=(len(text), len(text)))
    assert shown == text[: end[1] if filter_class is CutStop else end[0]]
