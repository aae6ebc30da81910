"""The OpenAPI document beside TGI's own: each difference is one of those listed here, with its why.

tests/golden/tgi_openapi.json holds the facts of the document that TGI 3.3.6 prints: routes, fields,
types, and what is required. A request may hold everything that TGI takes; an answer holds nothing
that TGI's clients do not expect where they look.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tgi_core.api.openapi import openapi_document
from tgi_core.api.options import HttpOptions
from tgi_core.api.table import operations

TGI = json.loads((Path(__file__).parents[2] / "golden" / "tgi_openapi.json").read_text())
OURS = openapi_document(operations(HttpOptions()))

NAMES = {
    "ChatCompletionChoice": "ChatChunkChoice",
    "ChatCompletionChunk": "ChatChunk",
    "ChatCompletionComplete": "ChatChoice",
    "ChatCompletionDelta": "Delta",
    "ChatCompletionLogprob": "TokenLogprob",
    "ChatCompletionLogprobs": "ChatLogprobs",
    "ChatCompletionTopLogprob": "TopLogprob",
    "Chunk": "Completion",
    "CompletionComplete": "CompletionChoice",
    "CompletionFinal": "Completion",
    "ErrorResponse": "ErrorBody",
    "FinishReason": "string",
    "Message": "ChatMessage",
    "OutputMessage": "AnswerMessage",
    "SagemakerRequest": "CompatGenerateRequest or ChatRequest or CompletionRequest",
    # TGI's document has one GenerateResponse and not the list that its route sends
    "SagemakerResponse": "list of GenerateResponse or ChatCompletion or Completion",
    "SagemakerStreamResponse": "StreamResponse or ChatChunk or Completion",
    "SimpleToken": "TokenizeToken",
    "TokenizeResponse": "list of TokenizeToken",
    "Url": "ImageUrl",
}
"""Objects that TGI calls otherwise; names are not on the wire."""

_TOOLS = "OpenAI's objects of tools and calls, in one message or delta with text"
_NULL = "null where a number is not finite, or where the engine gives none, as in TGI's own answers"

DIFFERENCES = {
    "ChatCompletionLogprob.logprob": _NULL,
    "ChatCompletionTopLogprob.logprob": _NULL,
    "ChatRequest.tools": _TOOLS,
    "CompletionComplete.finish_reason": "null until the end, as OpenAI has it; with --compat tgi a "
    "text, as TGI has it",
    "CompletionComplete.logprobs": "OpenAI's object, if asked for; TGI never sends any",
    "CompletionFinal.usage": "one type for whole answers and chunks; whole answers always have it",
    "CompletionRequest.prompt": "TGI's type Prompt is a text or texts; token ids are taken too",
    "DeltaToolCall": _TOOLS,
    "Function": _TOOLS,
    "FunctionName": _TOOLS,
    "JsonSchemaConfig": "a grammar is any JSON here until somebody looks at it",
    "TextMessage": "a message is one type, with or without text",
    "Tool": _TOOLS,
    "ToolCall.function": _TOOLS,
    "ToolCallDelta.role": _TOOLS,
    "ToolCallDelta.tool_calls": _TOOLS,
    "ToolCallMessage": _TOOLS,
}
"""What is otherwise, and why; whoever brings something of it takes it off the list."""


def words(schema):
    """A JSON schema as the golden file has types."""
    match schema:
        case {"$ref": ref}:
            return [ref.rpartition("/")[2]]
        case {"anyOf": options}:
            return [word for option in options for word in words(option)]
        case {"enum": _}:
            return ["string"]
        case {"type": "array", "items": items}:
            return [f"list of {' or '.join(words(items))}"]
        case {"type": str(name)}:
            return [name]
        case _:
            return ["anything"]


def ours_for(word):
    """TGI's word for a type in our names."""
    if word.startswith("list of "):
        return f"list of {ours_for(word.removeprefix('list of '))}"
    return NAMES.get(word, word)


def is_within(narrow, wide):
    if "anything" in wide:
        return True
    return all(word in wide or (word == "integer" and "number" in wide) for word in narrow)


def objects_of_bodies():
    """Names of TGI's objects that clients send."""
    found = {"CompatGenerateRequest", "ChatRequest", "CompletionRequest", "GenerateRequest"}
    while True:
        inside = {
            name
            for outer in found
            for kinds in TGI["objects"].get(outer, {}).values()
            for word in kinds
            for name in word.removeprefix("list of ").split(" or ")
            if name in TGI["objects"]
        }
        if inside <= found:
            return found
        found |= inside


def differences():
    """What each object of TGI has otherwise than ours, by name of the object and field."""
    schemas, bodies = OURS["components"]["schemas"], objects_of_bodies()
    found = {}
    for name, fields in TGI["objects"].items():
        ours = schemas.get(NAMES.get(name, name))
        if ours is None:
            found[name] = "is not there"
            continue
        required = ours.get("required", [])
        for field, kinds in fields.items():
            theirs = [ours_for(kind) for kind in kinds if kind != "required"]
            if field not in ours["properties"]:
                found[f"{name}.{field}"] = "is not there"
                continue
            mine = words(ours["properties"][field])
            if name in bodies:
                fits = is_within(theirs, mine)
                demands = field in required and "required" not in kinds
            else:
                fits = is_within(mine, theirs)
                demands = "required" in kinds and field not in required
            if not fits:
                found[f"{name}.{field}"] = f"{theirs} is {mine}"
            elif demands:
                found[f"{name}.{field}"] = "is required on one side only"
    return found


@pytest.mark.parametrize("route", TGI["routes"])
def test_every_route_of_tgi_is_there_with_the_same_bodies(route):
    method, path = route.split(" ")
    ours = OURS["paths"][path][method.lower()]
    kinds = {kind: ours_for(name) for kind, name in TGI["routes"][route].items()}
    body = kinds.pop("body", None)
    if body is not None:
        content = ours["requestBody"]["content"]["application/json"]
        assert " or ".join(words(content["schema"])) == body
    answers = ours["responses"]["200"].get("content", {})
    answers = {kind: " or ".join(words(content["schema"])) for kind, content in answers.items()}
    if route == "GET /v1/models":
        # TGI's document shows one model, its route sends the list
        assert (answers, kinds) == (
            {"application/json": "ModelsInfo"},
            {"application/json": "ModelInfo"},
        )
    else:
        assert answers == kinds


def test_every_difference_is_wanted():
    unexpected = {key: what for key, what in differences().items() if key not in DIFFERENCES}
    assert not unexpected


def test_every_wanted_difference_is_there():
    gone = set(DIFFERENCES) - set(differences())
    assert not gone, "take them off the list"


def test_the_comparison_sees_what_is_missing(monkeypatch):
    fields = OURS["components"]["schemas"]["Token"]["properties"]
    monkeypatch.setitem(fields, "logprob", {"type": "string"})
    monkeypatch.delitem(fields, "special")
    assert {"Token.logprob", "Token.special"} <= set(differences())
