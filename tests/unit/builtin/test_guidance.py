"""Masks are compared with what brute force says of small languages over small vocabularies."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgi_core.builtin.guidance import LLGuidance
from tgi_core.contract import Grammar, GrammarCompiler, GrammarKind, Matcher, Vocabulary
from tgi_core.errors import GenerationError, ValidationError

BYTES: Vocabulary = [*(bytes([byte]) for byte in range(256)), b"", b""]
LETTERS: Vocabulary = [b"a", b"b", b"", b"ab", b"ba", b"aab", b"bbb", b"abab"]


def regex(text: str) -> Grammar:
    return Grammar(kind=GrammarKind.REGEX, text=text)


def schema(value: object) -> Grammar:
    text = value if isinstance(value, str) else json.dumps(value)
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=text)


@pytest.fixture(scope="module")
def letters() -> GrammarCompiler:
    return LLGuidance().compiler(LETTERS)


@pytest.fixture(scope="module")
def bytewise() -> GrammarCompiler:
    return LLGuidance().compiler(BYTES)


def allowed(matcher: Matcher, vocabulary: Vocabulary) -> tuple[set[int], bool]:
    mask = np.full(-(-len(vocabulary) // 32), -1, np.int32)
    may_end = matcher.fill(mask)
    bits = np.unpackbits(mask.astype("<i4").view(np.uint8), bitorder="little")
    return set(np.flatnonzero(bits).tolist()), may_end


def assert_masks_are_exact(
    compiler: GrammarCompiler, vocabulary: Vocabulary, grammar: Grammar, language: set[bytes]
) -> None:
    """Goes through all texts that the masks allow."""
    beginnings = {text[:end] for text in language for end in range(len(text) + 1)}
    reached = {b"": compiler.compile(grammar).matcher()}
    seen = set()
    while reached:
        text, matcher = reached.popitem()
        seen.add(text)
        tokens, may_end = allowed(matcher, vocabulary)
        assert may_end == (text in language), text
        assert tokens == {t for t, b in enumerate(vocabulary) if b and text + b in beginnings}, text
        for token in tokens:
            longer = text + vocabulary[token]
            if longer not in seen and longer not in reached:
                matcher.accept([token])
                again, _ = allowed(matcher, vocabulary)
                reached[longer] = compiler.compile(grammar).matcher()
                reached[longer].accept(spell(longer, vocabulary))
                assert allowed(reached[longer], vocabulary)[0] == again, "spelled otherwise"
                matcher.roll_back(1)
                assert allowed(matcher, vocabulary) == (tokens, may_end), "after going back"
    assert language <= seen


def spell(text: bytes, vocabulary: Vocabulary) -> list[int]:
    return [vocabulary.index(bytes([byte])) for byte in text]


Language = tuple[str, frozenset[bytes]]
ATOMS = st.sampled_from([("a", frozenset({b"a"})), ("b", frozenset({b"b"}))])


def _join(parts: list[Language]) -> Language:
    texts = [b"".join(combination) for combination in product(*(words for _, words in parts))]
    return "".join(f"(?:{source})" for source, _ in parts), frozenset(texts)


def _either(parts: list[Language]) -> Language:
    return "|".join(f"(?:{s})" for s, _ in parts), frozenset().union(*(w for _, w in parts))


def _repeat(part: Language, least: int, more: int) -> Language:
    source, words = part
    texts = frozenset(
        b"".join(c) for n in range(least, least + more + 1) for c in product(words, repeat=n)
    )
    return f"(?:{source}){{{least},{least + more}}}", texts


LANGUAGES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(_join),
        st.lists(inner, min_size=1, max_size=3).map(_either),
        st.builds(_repeat, inner, st.integers(0, 2), st.integers(0, 2)),
    ),
    max_leaves=5,
).filter(lambda language: len(language[1]) < 200 and max(map(len, language[1])) < 12)


@settings(max_examples=60, deadline=None)
@given(LANGUAGES)
def test_a_mask_allows_exactly_what_can_still_be_completed(language: Language) -> None:
    source, words = language
    compiler = LLGuidance().compiler(LETTERS)
    assert_masks_are_exact(compiler, LETTERS, regex(source), set(words))


def test_a_mask_of_a_schema_is_exact(bytewise: GrammarCompiler) -> None:
    values = ["yes", "yesterday", 7, 70, True, None, "é"]
    words = {json.dumps(value, ensure_ascii=False).encode() for value in values}
    assert_masks_are_exact(bytewise, BYTES, schema({"enum": values}), words)


@pytest.mark.parametrize("size", [31, 32, 33, 64])
def test_every_size_of_a_vocabulary_has_its_mask(size: int) -> None:
    vocabulary = [b"a", b"b", *[b""] * (size - 3), b"ab"]
    compiler = LLGuidance().compiler(vocabulary)
    matcher = compiler.compile(regex("a?b?")).matcher()
    assert allowed(matcher, vocabulary) == ({0, 1, size - 1}, True)
    matcher.accept([size - 1])
    assert allowed(matcher, vocabulary) == (set(), True)


def test_matchers_of_one_grammar_do_not_see_each_other(letters: GrammarCompiler) -> None:
    compiled = letters.compile(regex("ab|ba"))
    one, two = compiled.matcher(), compiled.matcher()
    one.accept([0])
    assert allowed(one, LETTERS) == ({1}, False)
    assert allowed(two, LETTERS) == ({0, 1, 3, 4}, False)


def test_a_token_that_was_not_allowed_is_an_error(letters: GrammarCompiler) -> None:
    matcher = letters.compile(regex("ab")).matcher()
    with pytest.raises(GenerationError):
        matcher.accept([1])


def test_going_back_over_the_end(letters: GrammarCompiler) -> None:
    matcher = letters.compile(regex("ab")).matcher()
    matcher.accept([0, 1])
    assert allowed(matcher, LETTERS) == (set(), True)
    matcher.roll_back(2)
    assert allowed(matcher, LETTERS) == ({0, 3}, False)


def test_what_the_vocabulary_cannot_spell_is_an_error(letters: GrammarCompiler) -> None:
    with pytest.raises(ValidationError, match="vocabulary"):
        letters.compile(regex("c"))
    matcher = letters.compile(regex("a(c|b)c")).matcher()
    matcher.accept([3])
    with pytest.raises(GenerationError, match="vocabulary"):
        allowed(matcher, LETTERS)


def test_white_space_in_json_has_an_end(bytewise: GrammarCompiler) -> None:
    matcher = bytewise.compile(schema({"type": "object"})).matcher()
    matcher.accept(b"{" + b" " * 39)
    assert ord(" ") in allowed(matcher, BYTES)[0]
    matcher.accept(b" ")
    assert allowed(matcher, BYTES)[0] == {ord('"'), ord("}")}


@pytest.mark.parametrize("wrap", ["", "items", "anyOf", "properties"])
def test_what_has_properties_is_an_object_as_in_tgi(bytewise: GrammarCompiler, wrap: str) -> None:
    inner = {"properties": {"properties": {"type": "null"}}, "required": ["properties"]}
    value, before = {
        "": (inner, b""),
        "items": ({"type": "array", "items": inner, "minItems": 1}, b"["),
        "anyOf": ({"anyOf": [inner]}, b""),
        "properties": ({"properties": {"a": inner}, "required": ["a"]}, b'{"a":'),
    }[wrap]
    matcher = bytewise.compile(schema(value)).matcher()
    matcher.accept(before)
    assert allowed(matcher, BYTES)[0] - set(b" \t\n\r") == {ord("{")}
    matcher.accept(b'{"properties":null')
    assert ord("}") in allowed(matcher, BYTES)[0]


def test_classes_of_characters_are_ascii_as_in_tgi(bytewise: GrammarCompiler) -> None:
    for source, characters in {r"\d": "0123456789", r"\s": " \t\n\r\f\v"}.items():
        found, _ = allowed(bytewise.compile(regex(source)).matcher(), BYTES)
        assert {chr(token) for token in found} == set(characters)
    found, _ = allowed(bytewise.compile(regex(r"\w")).matcher(), BYTES)
    assert len(found) == 63


@pytest.mark.parametrize("source", ["^a$", "a/b", 'a" | "b', "é+", "[\n/]", r"\\", "a#b", ""])
def test_regexes_that_are_fine(bytewise: GrammarCompiler, source: str) -> None:
    bytewise.compile(regex(source))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a(b", "in a regex: unclosed group"),
        ("(?<=x)*", "look-behind, is not supported"),
        ("a$b", "lookarounds not supported"),
        (r"\bx", "lookarounds not supported"),
        ("abc\\", "lone backslash"),
        ("a{3,2}", "invalid repetition count range"),
        (r"\p{Foo}", "Unicode property not found"),
    ],
)
def test_a_bad_regex_is_refused_with_its_fault(
    bytewise: GrammarCompiler, source: str, words: str
) -> None:
    with pytest.raises(ValidationError) as error:
        bytewise.compile(regex(source))
    assert str(error.value).startswith("grammar is not valid: ") and words in str(error.value)
    assert "\n" not in str(error.value) and "start:" not in str(error.value)


NOT = {"not": {"type": "null"}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[1", "grammar is not valid: Expecting"),
        ("[" * 100_000, "nested more than 100"),
        (json.dumps([[[]]] * 3).replace("[]", "[" * 120 + "]" * 120), "nested more than 100"),
        ("5", "must be an object or boolean"),
        ("false", "schema is false"),
        ({"type": "objct"}, "Invalid type: objct (at #)"),
        ({"properties": {"a": 5}}, "(at #/properties/a)"),
        (NOT, 'Unimplemented keys: ["not"] (at #)'),
        ({"properties": {"a/b": {"items": NOT}}}, "(at #/properties/a~1b/items)"),
        ({"properties": {"not": {"type": "string"}, "a": NOT}}, "(at #/properties/a)"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/x"}], "$defs": {"x": NOT}}, "$defs/x"),
        ({"$ref": "#/$defs/nope"}, "does not exist"),
        ({"$ref": "http://example.org/schema"}, "cannot compile regex from schema: Resource"),
        (
            {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
            "nothing that the vocabulary can spell",
        ),
        ({"enum": []}, "Unsatisfiable"),
        ({"allOf": [{"type": "string"}, {"type": "null"}]}, "incompatible types"),
        ({"items": {"pattern": "(?=x)y", "type": "string"}}, "look-ahead"),
        ({"x-guidance": {"lenient": True}, **NOT}, "Unimplemented"),
    ],
)
def test_a_bad_schema_is_refused_with_its_fault_and_its_place(
    bytewise: GrammarCompiler, value: object, words: str
) -> None:
    with pytest.raises(ValidationError) as error:
        bytewise.compile(schema(value))
    assert words in str(error.value) and "\n" not in str(error.value)


NESTED_LARK = """start: "a" start "b" | "ab"  // as many of each, <so> to say
"""
NESTED_GBNF = """root ::= "a" root "b" | "ab" # as many of each
"""


@pytest.mark.parametrize(
    "grammar",
    [
        Grammar(kind=GrammarKind.LARK, text=NESTED_LARK),
        Grammar(kind=GrammarKind.GBNF, text=NESTED_GBNF),
    ],
)
def test_a_context_free_grammar_counts(letters: GrammarCompiler, grammar: Grammar) -> None:
    matcher = letters.compile(grammar).matcher()
    assert allowed(matcher, LETTERS) == ({0, 3, 5}, False)
    matcher.accept([5])  # aab
    assert allowed(matcher, LETTERS) == ({1}, False)
    matcher.accept([1])
    assert allowed(matcher, LETTERS) == (set(), True)
    matcher.roll_back(2)
    matcher.accept([0, 0, 3])  # aaab
    assert allowed(matcher, LETTERS) == ({1}, False)
    matcher.accept([1, 1])
    assert allowed(matcher, LETTERS) == (set(), True)


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        (GrammarKind.LARK, 'start: "a" (x', "line 1, column 14: Expected token"),
        (GrammarKind.LARK, 'start: "a" x\nx: y', 'line 2, column 4: unknown name: "y"'),
        (GrammarKind.LARK, "x: /a/", "no start rule"),
        (GrammarKind.LARK, "", "no start rule"),
        (GrammarKind.LARK, 'start: "a"\n | <|end|>', r"names a token, .* \(line 2\)"),
        (GrammarKind.LARK, "start: <[2]>", "names a token"),
        (GrammarKind.LARK, '%llguidance {}\nstart: "a"', r"%llguidance has options .* \(line 1\)"),
        (GrammarKind.LARK, 'start: %json {"not": {}}', "Unimplemented"),
        (GrammarKind.GBNF, 'root ::= "a', "at line 1"),
        (GrammarKind.GBNF, 'x ::= "a"', "No 'root' rule found"),
        (GrammarKind.GBNF, "root ::= " + "(" * 5000, "nested too deeply|at line 1"),
    ],
)
def test_a_bad_context_free_grammar_is_refused_with_its_fault(
    bytewise: GrammarCompiler, kind: GrammarKind, text: str, words: str
) -> None:
    with pytest.raises(ValidationError, match=words) as error:
        bytewise.compile(Grammar(kind=kind, text=text))
    assert str(error.value).startswith("grammar is not valid: ") and "\n" not in str(error.value)


def test_strings_and_comments_may_hold_what_a_directive_looks_like(
    bytewise: GrammarCompiler,
) -> None:
    text = 'start: "<|a|>" /<b>/ x // %llguidance <c>\nx: "\\"%llguidance<d>"'
    matcher = bytewise.compile(Grammar(kind=GrammarKind.LARK, text=text)).matcher()
    matcher.accept(list(b'<|a|><b>"%llguidance<d>'))
    assert allowed(matcher, BYTES) == (set(), True)
