"""Requests of the Responses API as bodies of OpenAI's chat completions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tgi_core.errors import ValidationError
from tgi_plugin_responses_api.schema import Format, Item, Part, ResponsesRequest

Json = dict[str, object]

_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
_CHOICES = ("auto", "none", "required")


def chat_body(request: ResponsesRequest) -> Json:
    """What the chat route is asked for a request.

    Raises:
        ValidationError: it holds something that this server cannot do.
    """
    for name, given in (
        ("background", request.background),
        ("conversation", request.conversation),
        ("prompt", request.prompt),
        ("top_logprobs", request.top_logprobs),
    ):
        if given:
            raise _unsupported(name)
    tools = function_tools(request)
    wishes: Json = {
        "model": request.model,
        "messages": _messages(request),
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": [_tool(tool) for tool in tools] or None,
        "response_format": _response_format(request),
    }
    if tools:
        wishes["tool_choice"] = _tool_choice(request)
        wishes["parallel_tool_calls"] = request.parallel_tool_calls
    return {name: value for name, value in wishes.items() if value is not None}


def function_tools(request: ResponsesRequest) -> list[dict[str, Any]]:
    """The client's own tools. Those that would run at OpenAI are ignored: Codex always has some."""
    return [tool for tool in request.tools or [] if tool.get("type") == "function"]


@dataclass(slots=True)
class _Turns:
    """A conversation in the making: several items may be one message of the assistant."""

    system: list[str] = field(default_factory=list)
    turns: list[Json] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    """Of the message of the assistant that comes next."""

    def assistant(self) -> Json:
        """The message that an item of the assistant belongs to."""
        last = self.turns[-1] if self.turns else None
        if last is None or last["role"] != "assistant" or self.thoughts:
            last = {"role": "assistant", "content": None}
            if self.thoughts:
                last["reasoning_content"] = "".join(self.thoughts)
                self.thoughts.clear()
            self.turns.append(last)
        return last

    def say(self, text: str) -> None:
        """The assistant said something."""
        message = self.assistant()
        if message["content"] is not None or "tool_calls" in message:
            message = {"role": "assistant", "content": None}
            self.turns.append(message)
        message["content"] = text

    def call(self, item: Item) -> None:
        """The assistant called a tool."""
        function = {"name": item.name, "arguments": item.arguments or "{}"}
        call = {"id": item.call_id, "type": "function", "function": function}
        message = self.assistant()
        calls = message.setdefault("tool_calls", [])
        assert isinstance(calls, list)
        calls.append(call)


def _messages(request: ResponsesRequest) -> list[Json]:
    turns = _Turns()
    if request.instructions:
        turns.system.append(request.instructions)
    if isinstance(request.input, str):
        turns.turns.append({"role": "user", "content": request.input})
    else:
        for item in request.input or []:
            _add(turns, item)
    # templates want one system message, and want it first
    head: list[Json] = []
    if turns.system:
        head.append({"role": "system", "content": "\n\n".join(turns.system)})
    # Codex asks with an empty input whether anybody is there
    return head + turns.turns or [{"role": "user", "content": ""}]


def _add(turns: _Turns, item: Item) -> None:
    match item.type, item.role:
        case "message", "system" | "developer":
            turns.system.append(_text(item.content))
        case "message", "assistant":
            turns.say(_text(item.content))
        case "message", "user":
            turns.turns.append({"role": "user", "content": _content(item.content)})
        case "message", role:
            raise ValidationError(f"`role` of a message cannot be {role!r:.64}")
        case "reasoning", _:
            turns.thoughts.append(_text(item.content))
        case "function_call", _:
            turns.call(item)
        case "function_call_output", _:
            turns.turns.append(
                {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output)}
            )
        case kind, _:
            raise _unsupported(kind[:64])


def _content(content: str | Sequence[Part] | None) -> str | list[Json]:
    """What a user says, with images where they stand."""
    parts = content if isinstance(content, Sequence) and not isinstance(content, str) else ()
    if not any(part.type == "input_image" for part in parts):
        return _text(content)
    shown: list[Json] = []
    for part in parts:
        if part.type != "input_image":
            shown.append({"type": "text", "text": _text([part])})
        elif part.image_url is not None:
            shown.append({"type": "image_url", "image_url": {"url": part.image_url}})
        else:
            raise _unsupported("input_image without image_url")
    return shown


def _text(content: str | Sequence[Part] | None) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    texts = []
    for part in content:
        if part.type == "refusal":
            texts.append(part.refusal or "")
        elif part.type not in _TEXTS:
            raise _unsupported(part.type[:64])
        else:
            texts.append(part.text or "")
    return "".join(texts)


def _tool(tool: dict[str, Any]) -> Json:
    names = ("name", "description", "parameters", "strict")
    function = {name: tool[name] for name in names if tool.get(name) is not None}
    return {"type": "function", "function": function}


def _tool_choice(request: ResponsesRequest) -> object:
    """None, which is the model's choice, if it names what is ignored."""
    match request.tool_choice:
        case str(word) if word in _CHOICES:
            return word
        case {"type": "function", "name": str(name)}:
            return {"type": "function", "function": {"name": name}}
        case str(word):
            raise ValidationError(
                f"`tool_choice` must be one of {', '.join(_CHOICES)}, not {word!r:.64}"
            )
        case _:
            return None


def _response_format(request: ResponsesRequest) -> Json | None:
    wanted = request.text.format if request.text and request.text.format else Format("text")
    match wanted.type:
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            schema: Json = {"name": wanted.name or "answer", "schema": wanted.schema or {}}
            if wanted.strict is not None:
                schema["strict"] = wanted.strict
            return {"type": "json_schema", "json_schema": schema}
        case other:
            raise _unsupported(f"text.format of type {other[:64]}")


def _unsupported(name: str) -> ValidationError:
    return ValidationError(f"`{name}` is not supported by this server")
