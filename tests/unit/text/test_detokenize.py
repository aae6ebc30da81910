"""Streamed text is the text of the whole, and never holds half a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_core.text.detokenize import REPLACEMENT, TokenBytes, WindowStream

TEXTS = [
    "",
    "hello",
    "naïve é",
    "日本語のテキスト",
    "👩‍👩‍👧 family 😀😀",
    "a\u0301",
    "tab\t\nnew",
    "ð¶ ≠",
]


def streamed(tokenizer, tokens, before=(), skip=True):
    stream = tokenizer.stream(before, skip_special_tokens=skip)
    parts = [stream.push(token) for token in tokens]
    return parts, stream.flush()


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_parts_add_up_to_the_text_and_hold_whole_characters_only(kind, text, request):
    tokenizer = request.getfixturevalue(kind)
    before = tokenizer.encode("hi", add_special_tokens=False)
    parts, rest = streamed(tokenizer, tokenizer.encode(text, add_special_tokens=False), before)
    assert ("".join(parts), rest) == (text.replace("\u2581", " "), "")
    assert not any(REPLACEMENT in part for part in parts)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_any_tokens_of_a_byte_level_vocabulary_stream_as_the_library_decodes_them(byte_level, data):
    tokens = data.draw(st.lists(st.integers(0, byte_level.vocab_size - 1), max_size=30))
    skip = data.draw(st.booleans())
    parts, rest = streamed(byte_level, tokens, skip=skip)
    assert "".join(parts) + rest == byte_level.decode(tokens, skip_special_tokens=skip)


@given(st.text(alphabet="hi é😀ß\u4e2dyou ", max_size=30))
@settings(max_examples=200, deadline=None)
def test_any_text_of_a_byte_fallback_vocabulary_streams_unchanged(sentencepiece, text):
    tokens = sentencepiece.encode(text.replace(" ", "\u2581"), add_special_tokens=False)
    before = sentencepiece.encode("hi", add_special_tokens=False)
    parts, rest = streamed(sentencepiece, tokens, before)
    assert "".join(parts) + rest == text


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_tokens_of_a_byte_fallback_vocabulary_never_show_half_a_character(sentencepiece, data):
    """Bytes that make no character are replaced, and no whole one is lost beside them."""
    whole = st.sampled_from(["é", "😀", "\u4e2d", "h", "i"]).map(
        lambda char: sentencepiece.encode(char, add_special_tokens=False)
    )
    some_bytes = st.lists(st.integers(3, 258), min_size=1, max_size=3)
    tokens = [t for part in data.draw(st.lists(whole | some_bytes, max_size=10)) for t in part]
    parts, rest = streamed(sentencepiece, tokens)
    text = "".join(parts) + rest
    raw = b"".join(sentencepiece.vocabulary()[token] for token in tokens)
    assert set(text) - {REPLACEMENT} <= set(raw.decode(errors="replace"))
    try:
        # such a vocabulary writes a space before the first word, and its decoder drops it
        assert text == raw.decode().removeprefix(" ")
    except UnicodeDecodeError:
        assert REPLACEMENT in text


@pytest.mark.parametrize("tail", ["", " ", "h"])
def test_a_first_space_that_is_a_byte_is_dropped_as_the_library_drops_it(sentencepiece, tail):
    first_byte = 3
    tokens = [first_byte + byte for byte in f" {tail}".encode()]
    parts, rest = streamed(sentencepiece, tokens)
    assert "".join(parts) + rest == sentencepiece.decode(tokens, skip_special_tokens=True) == tail


def test_the_space_before_the_first_word_is_kept_after_a_prompt(sentencepiece):
    (word,) = sentencepiece.encode("\u2581hi", add_special_tokens=False)
    assert streamed(sentencepiece, [word], before=[word]) == ([" hi"], "")
    assert streamed(sentencepiece, [word], before=[]) == (["hi"], "")


@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_an_unfinished_character_is_replaced_at_the_end_only(kind, request):
    tokenizer = request.getfixturevalue(kind)
    tokens = tokenizer.encode("h😀", add_special_tokens=False)[:-1]
    parts, rest = streamed(tokenizer, tokens)
    assert "".join(parts) == "h"
    assert set(rest) == {REPLACEMENT}


def test_special_tokens_have_no_text_and_do_not_grow_the_window(sentencepiece):
    stream = sentencepiece.stream([], skip_special_tokens=True)
    assert [stream.push(2) for _ in range(100)] == [""] * 100
    assert stream.push(sentencepiece.encode("h", add_special_tokens=False)[0]) == "h"
    shown = sentencepiece.stream([], skip_special_tokens=False)
    assert shown.push(2) == "</s>"


def test_bytes_that_are_no_text_cannot_hold_the_stream_up_for_ever():
    decoded = []

    def decode(tokens):
        decoded.append(len(tokens))
        return REPLACEMENT * len(tokens)

    stream = WindowStream(decode, [], ())
    text = "".join(stream.push(0) for _ in range(200))
    assert len(text) > 180
    assert max(decoded) < 64


def test_unknown_tokens_and_foreign_characters_in_names_have_bytes():
    token_bytes = TokenBytes({1: "\u0120a", 2: "\u4e2d x"}.get, skip=[1])
    assert [token_bytes[1], token_bytes[2], token_bytes[3]] == [b"", "\u4e2d x".encode(), b""]
    assert TokenBytes({1: "\u0120a"}.get, skip=())[1] == b" a"
