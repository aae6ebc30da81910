"""The default guidance engine, on the library llguidance: JSON schemas, regular expressions and
context-free grammars.

llguidance walks the vocabulary as a tree for each mask, so there is no automaton of the whole
grammar that could blow up. It bounds the work of a mask, but not of every compilation (a
`multipleOf` of a large prime takes seconds): whoever compiles what a stranger wrote tries it in a
process that can be killed first. Knows nothing of requests and processes.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tgi_core.builtin.json_schema import SHARED, children, rewritten
from tgi_core.contract import (
    CompiledGrammar,
    Grammar,
    GrammarCompiler,
    GrammarKind,
    GuidanceEngine,
    Matcher,
    Vocabulary,
)
from tgi_core.errors import GenerationError, ValidationError
from tgi_core.plugin import hookimpl

if TYPE_CHECKING:
    import llguidance

logger = logging.getLogger(__name__)

_MAX_DEPTH = 100
"""Deepest schema. The library's JSON reader gives up at 128."""
_MAX_LEXER_STATES = 20_000
"""A state takes one or two kilobytes, and states are kept for as long as the grammar is."""
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,40}"
"""Between the parts of a JSON text. Without a bound, some models write nothing else any more."""
_PLACES_TRIED = 500
"""Parts of a faulty schema that are compiled by themselves, to say which of them is at fault."""

_HEAD = '%llguidance {"no_forcing": true}\n'
"""All tokens that spell what must come are allowed. Otherwise the library would insist on the way
in which the tokenizer spells it, and it has no tokenizer here."""

_NEWLINE = "\n"
_LARK_PIECES = re.compile(
    r"""//[^\n]*|"(?:\\.|[^"\\\n])*"|/(?:\\.|[^/\\\n])+/|(?P<token><[^>\n]*>)"""
    r"|(?P<directive>%llguidance\b)"
)
"""What may hold the signs that are looked for without meaning them: comments, strings, regexes."""
_LARK_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): (.*)", re.DOTALL)


class LLGuidance:
    """Satisfies `GuidanceEngine`."""

    name = "llguidance"
    kinds = frozenset(GrammarKind)

    def compiler(self, vocabulary: Vocabulary) -> GrammarCompiler:
        """Imports the library, and makes a tree of the vocabulary: 2 ms a thousand tokens."""
        return _Compiler(vocabulary)


@hookimpl
def tgi_guidance_engines() -> Sequence[GuidanceEngine]:
    """The engine that comes with core."""
    return (LLGuidance(),)


class _Tokens:
    """What the library wants to know of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    eos_token_id = None
    """None adds a token of the library's own: which ones end a sequence is the request's choice."""
    special_token_ids: Sequence[int] = ()

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary

    def __call__(self, text: str) -> list[int]:
        raise NotImplementedError("no text is ever forced")


class _Compiler:
    """Satisfies `GrammarCompiler`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import llguidance

        self._library = llguidance
        self._tokenizer = llguidance.LLTokenizer(_Tokens(vocabulary))  # type: ignore[arg-type]
        self._limits = llguidance.LLParserLimits(
            max_lexer_states=_MAX_LEXER_STATES, verbose_errors=False
        )
        self._num_tokens = len(vocabulary)

    def compile(self, grammar: Grammar) -> CompiledGrammar:
        """Compiles, and makes the first mask, for many a fault shows only there."""
        match grammar.kind:
            case GrammarKind.JSON_SCHEMA:
                return self._compile_schema(grammar.text)
            case GrammarKind.REGEX:
                return self._compile_regex(grammar.text)
            case GrammarKind.LARK:
                return self._compile_lark(grammar.text)
            case GrammarKind.GBNF:
                return self._compile_lark(_from_gbnf(grammar.text))

    def _compile_schema(self, text: str) -> CompiledGrammar:
        schema = _parse(text)
        made, fault = self._try(_of_schema(schema))
        if made is not None:
            return made
        place = self._place_of_fault(schema, fault) if isinstance(schema, dict) else ""
        raise ValidationError(
            f"cannot compile regex from schema: {fault}" + (f" (at {place})" if place else "")
        )

    def _compile_regex(self, regex: str) -> CompiledGrammar:
        if (len(regex) - len(regex.rstrip("\\"))) % 2:
            raise ValidationError("grammar is not valid: the regex ends with a lone backslash")
        # ASCII classes, as in TGI: a model that is to write \d+ is not meant to write Thai digits
        quoted = self._library.regex_to_lark(regex, "dws")
        made, fault = self._try(f"{_HEAD}start: /{quoted}/")
        if made is None:
            raise ValidationError(f"grammar is not valid: {fault}")
        return made

    def _compile_lark(self, text: str) -> CompiledGrammar:
        for piece in _LARK_PIECES.finditer(text):
            if piece["token"]:
                raise ValidationError(
                    f"grammar is not valid: {piece['token'][:64]} names a token, and grammars are "
                    f"about text (line {text.count(_NEWLINE, 0, piece.start()) + 1})"
                )
            if piece["directive"]:
                raise ValidationError(
                    "grammar is not valid: %llguidance has options of the server "
                    f"(line {text.count(_NEWLINE, 0, piece.start()) + 1})"
                )
        made, fault = self._try(_HEAD + text)
        if made is None:
            raise ValidationError(f"grammar is not valid: {_without_head(fault)}")
        return made

    def _try(self, source: str) -> tuple[CompiledGrammar | None, str]:
        """The grammar, or what is wrong with it."""
        matcher = self._library.LLMatcher(self._tokenizer, source, log_level=0, limits=self._limits)
        if matcher.is_error():
            return None, _fault(matcher)
        first = _Matcher(matcher.deep_copy(), self._num_tokens)
        mask = np.empty(-(-self._num_tokens // 32), np.int32)
        try:
            first.fill(mask)
        except GenerationError as error:
            return None, str(error)
        return _Compiled(matcher, self._num_tokens), ""

    def _place_of_fault(self, schema: dict[str, Any], fault: str) -> str:
        """Where in a schema the fault is: the innermost part that has it by itself."""
        shared = {key: schema[key] for key in SHARED if key in schema}
        place, part, left = "#", schema, _PLACES_TRIED
        while True:
            for key, child in children(part):
                left -= 1
                if left < 0:
                    return place
                source = _of_schema({**shared, **child} if isinstance(child, dict) else child)
                # compiled only: a mask would tell no more of these faults
                matcher = self._library.LLMatcher(
                    self._tokenizer, source, log_level=0, limits=self._limits
                )
                if matcher.is_error() and _fault(matcher) == fault:
                    place = f"{place}/{key}"
                    if not isinstance(child, dict):
                        return place
                    part = child
                    break
            else:
                return place


class _Compiled:
    """Satisfies `CompiledGrammar`. The lexer is shared by its matchers, which make it faster."""

    def __init__(self, matcher: llguidance.LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._num_tokens = num_tokens

    def matcher(self) -> Matcher:
        """A copy of the one at the beginning."""
        return _Matcher(self._matcher.deep_copy(), self._num_tokens)


class _Matcher:
    """Satisfies `Matcher`."""

    def __init__(self, matcher: llguidance.LLMatcher, num_tokens: int) -> None:
        self._matcher = matcher
        self._words, self._bit = divmod(num_tokens, 32)
        """Where the library's own token for the end has its bit."""

    def fill(self, mask: NDArray[np.int32]) -> bool:
        """One more word than wanted if the end's bit is the first of it."""
        words = np.empty(self._words + 1, np.int32)
        self._matcher.unsafe_compute_mask_ptr(words.ctypes.data, words.nbytes)
        if self._matcher.is_error():
            raise GenerationError(_fault(self._matcher))
        may_end = bool(words[self._words] >> self._bit & 1)
        words.view(np.uint32)[self._words] &= np.uint32(0xFFFFFFFF ^ (1 << self._bit))
        mask[:] = words[: len(mask)]
        return may_end

    def accept(self, tokens: Sequence[int]) -> None:
        """Goes on."""
        if tokens and not self._matcher.consume_tokens(list(tokens)):
            raise GenerationError(_fault(self._matcher))

    def roll_back(self, num_tokens: int) -> None:
        """Goes back."""
        if num_tokens and not self._matcher.rollback(num_tokens):
            raise GenerationError(_fault(self._matcher))


def _parse(text: str) -> Any:
    """A schema from its text.

    Raises:
        ValidationError: it is no JSON, or nested too deeply.
    """
    try:
        schema = json.loads(text)
    except ValueError as error:
        raise ValidationError(f"grammar is not valid: {error}") from error
    except RecursionError as error:
        raise _too_deep() from error
    level = [schema]
    for _ in range(_MAX_DEPTH):
        level = [
            child
            for value in level
            if isinstance(value, (dict, list))
            for child in (value.values() if isinstance(value, dict) else value)
        ]
        if not level:
            return schema
    raise _too_deep()


def _too_deep() -> ValidationError:
    return ValidationError(
        f"grammar is not valid: the schema is nested more than {_MAX_DEPTH} levels deep"
    )


def _from_gbnf(text: str) -> str:
    """A grammar of llama.cpp in Lark's syntax.

    Raises:
        ValidationError: it is none; says where it stops to be one.
    """
    from llguidance.gbnf_to_lark import gbnf_to_lark

    try:
        lark: str = gbnf_to_lark(text)
    except RecursionError as error:
        raise ValidationError("grammar is not valid: it is nested too deeply") from error
    except Exception as error:  # some faults have no class of their own
        raise ValidationError(f"grammar is not valid: {str(error)[:300]}") from error
    return lark.replace("%llguidance {}", "", 1)


def _without_head(fault: str) -> str:
    """The library counts lines from the one that core has put before the grammar."""
    place = _LARK_PLACE.fullmatch(fault)
    if place is None:
        return fault
    line, column, reason = place.groups()
    return f"line {int(line) - 1}, column {column}: {reason}"


def _of_schema(schema: object) -> str:
    """The library's form of a JSON schema."""
    schema = rewritten(schema)
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {"whitespace_pattern": _WHITESPACE}}
    return json.dumps(
        {
            "grammars": [
                {"lark_grammar": f"{_HEAD}start: @schema"},
                {"name": "schema", "json_schema": schema},
            ]
        }
    )


def _fault(matcher: llguidance.LLMatcher) -> str:
    """The library's own words, without those that are about it and not about the grammar."""
    text = matcher.get_error()
    if text.startswith("panic"):
        logger.error("llguidance failed: %s", text)
        return "the guidance engine failed"
    text = text.replace("<non-verbose/>", "").strip()
    if text.startswith("oneOf constraints are not supported"):
        return "the branches of oneOf may overlap, which cannot be enforced; use anyOf"
    if text.startswith("NoExtension"):
        return "nothing that the vocabulary can spell satisfies the grammar"
    _, found, reason = text.partition("\nerror: ")
    if found:  # a regex is shown with a mark below the place, which needs lines of its own
        return f"in a regex: {reason.splitlines()[0]}"
    _, found, reason = text.partition("(in regex): ")
    return (reason if found else text).splitlines()[0][:300] if text else "unknown fault"
