"""What clients of both dialects write for a grammar, to the contract's Grammar.

TGI has {"type", "value"}, OpenAI a `response_format` of its own and, for tools, {"type": "grammar",
"syntax", "definition"}; each is taken in either place. Neither has context-free grammars there.
Looks at shapes only: whether a schema makes sense is found out by compiling it.
"""

from __future__ import annotations

import msgspec

from tgi_core.contract import Grammar, GrammarKind
from tgi_core.errors import ValidationError
from tgi_core.text.validate import check_grammar_length

_TEXTS = {kind.value: kind for kind in (GrammarKind.REGEX, GrammarKind.LARK, GrammarKind.GBNF)}
"""Grammars that are plain texts."""
_ANY_OBJECT: dict[str, object] = {"type": "object"}
"""What a format without a schema means."""


def to_grammar(wish: object) -> Grammar | None:
    """TGI's `grammar`.

    Raises:
        ValidationError: it has another shape.
    """
    match wish:
        case None:
            return None
        case {"type": str(kind), "value": str(text)} if kind in _TEXTS:
            return Grammar(kind=_TEXTS[kind], text=text)
        case {"type": "grammar", "syntax": str(kind), "definition": str(text)} if kind in _TEXTS:
            return Grammar(kind=_TEXTS[kind], text=text)
        case {"type": "json" | "json_object", "value": str() | dict() as schema}:
            return _json(schema)
        case {"type": "json_schema", "value": {"schema": str() | dict() as schema}}:
            return _json(schema)
        case {"type": "json" | "json_object" | "json_schema", "value": _}:
            raise ValidationError("grammar is not supported")
        case _:
            raise ValidationError(
                '`grammar` must be {"type": "json", "value": SCHEMA}, {"type": "json_schema", '
                '"value": {"schema": SCHEMA}}, {"type": "regex", "value": REGEX}, or for a '
                'context-free grammar {"type": "lark", "value": GRAMMAR} or {"type": "gbnf", ...}'
            )


def format_or_grammar(response_format: object, grammar: object) -> Grammar | None:
    """OpenAI's `response_format` in its own shapes and TGI's, or else TGI's `grammar`.

    Raises:
        ValidationError: it has no such shape, or there are two.
    """
    wanted = _response_format(response_format)
    if wanted is not None and grammar is not None:
        raise ValidationError("use either `response_format` or `grammar`, not both")
    return wanted or to_grammar(grammar)


def _response_format(wish: object) -> Grammar | None:
    match wish:
        case None | {"type": "text"}:
            return None
        case {"type": "json_schema", "json_schema": {"schema": str() | dict() as schema}}:
            return _json(schema)
        case {"type": "json_schema", "json_schema": dict(named)} if named.get("schema") is None:
            return _json(_ANY_OBJECT)
        case {"type": "json_object", **others} if others.get("value") is None:
            return _json(_ANY_OBJECT)
        case {"type": "json" | "json_object" | "json_schema" | "regex", "value": _}:
            return to_grammar(wish)
        case {"type": "lark" | "gbnf", "value": _} | {"type": "grammar", "definition": _}:
            return to_grammar(wish)
        case _:
            raise ValidationError(
                '`response_format` must be {"type": "text"}, {"type": "json_object"}, '
                '{"type": "json_schema", "json_schema": {"schema": SCHEMA}} or one of the shapes '
                "of `grammar`"
            )


def _json(schema: str | dict[str, object]) -> Grammar:
    """Equal schemas become equal texts, however they were sent."""
    value: object = schema
    if isinstance(schema, str):
        check_grammar_length(schema)
        try:
            value = msgspec.json.decode(schema)
        except (msgspec.DecodeError, RecursionError) as error:
            reason = error if isinstance(error, msgspec.DecodeError) else "it is nested too deeply"
            raise ValidationError(f"grammar is not valid: {reason}") from error
        if not isinstance(value, dict):
            raise ValidationError("grammar is not valid: a schema must be a JSON object")
    return Grammar(kind=GrammarKind.JSON_SCHEMA, text=msgspec.json.encode(value).decode())
