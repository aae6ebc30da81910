"""Grammars on the wire: every shape that clients send, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from tgi_core.contract import Feature, Grammar, GrammarKind
from tgi_core.errors import GenerationError, ValidationError
from tgi_core.text.validate import MAX_GRAMMAR_CHARS

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"type": "null"}}}
AS_SCHEMA = Grammar(kind=GrammarKind.JSON_SCHEMA, text=json.dumps(SCHEMA, separators=(",", ":")))
ANY_OBJECT = Grammar(kind=GrammarKind.JSON_SCHEMA, text='{"type":"object"}')
ANYTHING = Grammar(kind=GrammarKind.JSON_SCHEMA, text="{}")
REGEX = Grammar(kind=GrammarKind.REGEX, text="a+")
LARK = Grammar(kind=GrammarKind.LARK, text="start: /a/")
GBNF = Grammar(kind=GrammarKind.GBNF, text="root ::= [a]")

TGI: list[tuple[Any, Grammar]] = [
    ({"type": "json", "value": SCHEMA}, AS_SCHEMA),
    ({"type": "json_object", "value": SCHEMA}, AS_SCHEMA),
    ({"type": "json", "value": json.dumps(SCHEMA, indent=2)}, AS_SCHEMA),
    ({"type": "json_schema", "value": {"name": "x", "schema": SCHEMA}}, AS_SCHEMA),
    ({"type": "json_schema", "value": {"schema": json.dumps(SCHEMA)}}, AS_SCHEMA),
    ({"type": "json", "value": {}}, ANYTHING),
    ({"type": "regex", "value": "a+"}, REGEX),
    ({"type": "lark", "value": "start: /a/"}, LARK),
    ({"type": "gbnf", "value": "root ::= [a]"}, GBNF),
    ({"type": "grammar", "syntax": "lark", "definition": "start: /a/"}, LARK),
    ({"type": "grammar", "syntax": "regex", "definition": "a+"}, REGEX),
]
OPENAI: list[tuple[Any, Grammar]] = [
    ({"type": "json_object"}, ANY_OBJECT),
    ({"type": "json_object", "value": None}, ANY_OBJECT),
    (
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}},
        AS_SCHEMA,
    ),
    ({"type": "json_schema", "json_schema": {"name": "x"}}, ANY_OBJECT),
]


def generate(server: Any, grammar: object, path: str = "/generate") -> Any:
    return server.post(path, {"inputs": "Hi", "parameters": {"grammar": grammar}})


def chat(server: Any, **more: object) -> Any:
    messages = [{"role": "user", "content": "Hi"}]
    return server.post("/v1/chat/completions", {"messages": messages, **more})


def complete(server: Any, **more: object) -> Any:
    return server.post("/v1/completions", {"prompt": "Hi", **more})


@pytest.mark.parametrize(("wish", "grammar"), TGI)
@pytest.mark.parametrize("path", ["/generate", "/generate_stream", "/"])
def test_tgi_grammars(server: Any, wish: object, grammar: Grammar, path: str) -> None:
    assert generate(server, wish, path).status == 200
    assert server.engine.last.grammar == grammar


@pytest.mark.parametrize(("wish", "grammar"), [*OPENAI, *TGI])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", [chat, complete])
def test_openai_response_formats(
    server: Any, wish: object, grammar: Grammar, stream: bool, route: Any
) -> None:
    assert route(server, response_format=wish, stream=stream).status == 200
    assert server.engine.last.grammar == grammar


@pytest.mark.parametrize(("wish", "grammar"), TGI)
@pytest.mark.parametrize("route", [chat, complete])
def test_tgi_grammars_on_openai_routes(
    server: Any, wish: object, grammar: Grammar, route: Any
) -> None:
    assert route(server, grammar=wish, response_format={"type": "text"}).status == 200
    assert server.engine.last.grammar == grammar


def test_no_grammar(server: Any) -> None:
    for reply in (
        generate(server, None),
        chat(server, response_format=None),
        chat(server, response_format={"type": "text"}),
    ):
        assert reply.status == 200 and server.engine.last.grammar is None


def test_every_choice_has_the_grammar(server: Any) -> None:
    assert complete(server, prompt=["a", "b"], grammar=TGI[0][0], n=2).status == 200
    grammars = [generation.request.grammar for generation in server.engine.generations]
    assert grammars == [AS_SCHEMA] * 4


BAD_GRAMMARS: list[tuple[Any, str]] = [
    ("x", "`grammar` must be"),
    ([], "`grammar` must be"),
    ({}, "`grammar` must be"),
    ({"type": "json"}, "`grammar` must be"),
    ({"type": "regex", "value": 7}, "`grammar` must be"),
    ({"type": "yacc", "value": "x"}, "`grammar` must be"),
    ({"type": "json", "value": 7}, "grammar is not supported"),
    ({"type": "json", "value": None}, "grammar is not supported"),
    ({"type": "json", "value": "{"}, "grammar is not valid: "),
    ({"type": "json", "value": "7"}, "grammar is not valid: a schema must be a JSON object"),
    ({"type": "json", "value": "[" * 100_000}, "grammar is not valid: "),
    ({"type": "json", "value": '"' + "x" * MAX_GRAMMAR_CHARS + '"'}, "at most 262144"),
    ({"type": "json", "value": {"enum": ["x" * MAX_GRAMMAR_CHARS]}}, "at most 262144"),
    ({"type": "regex", "value": "x" * (MAX_GRAMMAR_CHARS + 1)}, "at most 262144"),
]


@pytest.mark.parametrize(("wish", "words"), BAD_GRAMMARS)
def test_a_grammar_of_another_shape_is_refused(server: Any, wish: object, words: str) -> None:
    reply = generate(server, wish)
    assert reply.status == 422
    assert reply.json["error_type"] == "validation"
    assert reply.json["error"].startswith("Input validation error: ")
    assert words in reply.json["error"]
    [event] = generate(server, wish, "/generate_stream").events
    assert event == reply.json
    assert server.idle and not server.engine.generations


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"response_format": "json"}, "`response_format` must be"),
        ({"response_format": {"type": "json"}}, "`response_format` must be"),
        ({"response_format": {"type": "json_schema"}}, "`response_format` must be"),
        ({"response_format": {"type": "grammar", "value": "x"}}, "`response_format` must be"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": 7}}}, "must be"),
        ({"response_format": OPENAI[0][0], "grammar": TGI[0][0]}, "either"),
        ({"grammar": "x"}, "`grammar` must be"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_format_of_another_shape_is_refused(
    server: Any, more: dict[str, object], words: str, stream: bool
) -> None:
    reply = chat(server, stream=stream, **more)
    assert reply.status == 422
    assert words in reply.json["error"]["message"]
    assert reply.json["error"]["code"] == "validation"
    assert server.idle and not server.engine.generations


def test_an_engine_without_guidance_refuses_grammars_in_the_words_of_tgi(server: Any) -> None:
    model = server.service.model
    features = frozenset(Feature) - {Feature.GRAMMAR}
    server.service.model = replace(model, limits=replace(model.limits, features=features))
    reply = generate(server, TGI[0][0])
    assert reply.status == 422
    assert reply.json["error"] == "Input validation error: grammar is not supported"


class Examiner:
    """Satisfies GrammarCheck."""

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.seen: list[Grammar] = []

    async def check(self, grammar: Grammar) -> None:
        self.seen.append(grammar)
        if grammar == REGEX:
            raise self.error


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ValidationError("grammar is not valid: unclosed group"), 422, "validation"),
        (GenerationError("grammars cannot be checked now"), 424, "generation"),
    ],
)
def test_a_grammar_is_examined_before_the_engine_sees_it(
    server: Any, error: Exception, status: int, code: str
) -> None:
    examiner = Examiner(error)
    server.service.model = replace(server.service.model, grammars=examiner)
    reply = generate(server, TGI[-1][0])
    assert reply.status == status and str(error) in reply.json["error"]
    for stream in (False, True):
        reply = chat(server, response_format=TGI[-1][0], stream=stream)
        assert reply.status == status
        assert reply.json["error"]["code"] == code and str(error) in reply.json["error"]["message"]
    assert server.idle and not server.engine.generations
    assert generate(server, TGI[0][0]).status == 200
    assert examiner.seen == [REGEX] * 3 + [AS_SCHEMA]
    assert generate(server, None).status == 200
    assert len(examiner.seen) == 4
