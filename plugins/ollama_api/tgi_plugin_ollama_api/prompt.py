"""Requests of Ollama's API as bodies of OpenAI's chat completions and completions."""

from __future__ import annotations

import json
from collections import deque

from msgspec import UNSET

from tgi_core.errors import ValidationError
from tgi_plugin_ollama_api.schema import Asked, ChatRequest, GenerateRequest, Message, Options

Json = dict[str, object]


def chat_body(request: ChatRequest) -> Json:
    """What the chat route is asked for a chat.

    Raises:
        ValidationError: it holds something that this server cannot do.
    """
    body = {"messages": _messages(request.messages or []), **_wishes(request)}
    if request.tools:
        body["tools"] = request.tools
    return body


def generate_body(request: GenerateRequest) -> Json:
    """What the chat route is asked for a prompt, or the completions route for a raw one.

    Raises:
        ValidationError: it holds something that this server cannot do.
    """
    for name, given in (
        ("suffix", request.suffix),
        ("template", request.template),
        ("context", request.context),
    ):
        if given:
            raise _unsupported(name)
    prompt = request.prompt or ""
    if request.raw:
        if request.images:
            raise _unsupported("images with raw")
        return {"prompt": prompt, **_wishes(request)}
    turns = [{"role": "system", "content": request.system}] if request.system else []
    return {
        "messages": [*turns, {"role": "user", "content": _content(prompt, request.images)}],
        **_wishes(request),
    }


def _messages(messages: list[Message]) -> list[Json]:
    """Ollama's calls have no ids: a tool's answer is that of the first call without one."""
    turns: list[Json] = []
    waiting: deque[tuple[str, str]] = deque()
    num_calls = 0
    for message in messages:
        content = _content(message.content or "", message.images)
        turn: Json = {"role": message.role, "content": content}
        if message.thinking:
            turn["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = []
            for call in message.tool_calls:
                call_id, num_calls = f"call_{num_calls}", num_calls + 1
                waiting.append((call_id, call.function.name))
                arguments = json.dumps(call.function.arguments, ensure_ascii=False)
                function = {"name": call.function.name, "arguments": arguments}
                calls.append({"id": call_id, "type": "function", "function": function})
            turn["tool_calls"] = calls
        if message.role == "tool":
            turn["tool_call_id"] = _answered(waiting, message)
        turns.append(turn)
    return turns


def _content(text: str, images: list[str] | None) -> str | list[Json]:
    """Images come before the text, as in Ollama."""
    if not images:
        return text
    parts: list[Json] = [
        # what they are is seen by what they hold
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}
        for image in images
    ]
    return [*parts, {"type": "text", "text": text}]


def _answered(waiting: deque[tuple[str, str]], message: Message) -> str:
    """The id of the call that a tool's message answers."""
    for call in waiting:
        if message.tool_name in (UNSET, "", call[1]):
            waiting.remove(call)
            return call[0]
    raise ValidationError("a message of the role `tool` answers no call of the conversation")


def _wishes(request: Asked) -> Json:
    if request.logprobs:
        raise _unsupported("logprobs")
    options = request.options or Options()
    wishes: Json = {
        "model": request.model,
        "max_tokens": max_tokens(request),
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        # what is neutral for Ollama is refused elsewhere
        "min_p": options.min_p or None,
        "typical_p": options.typical_p,
        "seed": options.seed if options.seed is not None and options.seed >= 0 else None,
        "stop": options.stop or None,
        "repetition_penalty": options.repeat_penalty or None,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "response_format": _response_format(request),
    }
    return {name: value for name, value in wishes.items() if value is not None}


def max_tokens(request: Asked) -> int | None:
    """How many tokens the answer may have; None is as many as the context has left."""
    wanted = (request.options or Options()).num_predict
    return wanted if wanted is not None and wanted > 0 else None


def _response_format(request: Asked) -> Json | None:
    match request.format:
        case None | "":
            return None
        case "json":
            return {"type": "json_object"}
        case dict():
            schema = {"name": "answer", "schema": request.format}
            return {"type": "json_schema", "json_schema": schema}
        case other:
            raise ValidationError(
                f'`format` must be "json" or a JSON schema, not {json.dumps(other[:64])}'
            )


def _unsupported(name: str) -> ValidationError:
    return ValidationError(f"`{name}` is not supported by this server")
