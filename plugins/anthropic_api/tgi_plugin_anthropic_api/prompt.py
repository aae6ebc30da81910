"""Requests of the Messages API as bodies of OpenAI's chat completions."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tgi_core.errors import ValidationError
from tgi_plugin_anthropic_api.schema import (
    Block,
    InputMessage,
    MessagesRequest,
    Prompt,
    Source,
    Tool,
    ToolChoice,
)

Json = dict[str, object]

# Claude Code begins its system prompt with a line for Anthropic's accounts that differs from
# request to request, so that nothing behind it would ever be found in the prefix cache
_ATTRIBUTION = re.compile(r"\s*x-anthropic-billing-header:[^\n]*\n?")

_THINKING = ("thinking", "redacted_thinking")


def chat_body(request: MessagesRequest, max_tokens: int) -> Json:
    """What the chat route is asked for a request.

    Raises:
        ValidationError: it holds something that this server cannot do.
    """
    wishes: Json = {
        "max_tokens": max_tokens,
        "stop": request.stop_sequences or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
    }
    return prompt_body(request) | {
        name: value for name, value in wishes.items() if value is not None
    }


def prompt_body(prompt: Prompt) -> Json:
    """The part of it that the prompt depends on.

    Raises:
        ValidationError: it holds something that this server cannot do.
    """
    body: Json = {"model": prompt.model, "messages": _messages(prompt)}
    if prompt.tools:
        body["tools"] = [_tool(tool) for tool in prompt.tools]
        if prompt.tool_choice is not None:
            body["tool_choice"] = _tool_choice(prompt.tool_choice)
            if prompt.tool_choice.disable_parallel_tool_use:
                body["parallel_tool_calls"] = False
    if prompt.output_config is not None and prompt.output_config.format is not None:
        schema = {"name": "answer", "schema": prompt.output_config.format.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def _messages(prompt: Prompt) -> list[Json]:
    system = _texts(prompt.system or "")
    turns = []
    for message in prompt.messages:
        match message.role:
            case "system":
                system += _texts(message.content)
            case "user":
                turns += _user(message)
            case "assistant":
                turns.append(_assistant(message))
    # templates want one system message, and want it first
    head: list[Json] = [{"role": "system", "content": "\n\n".join(system)}] if system else []
    return head + turns


def _texts(content: str | Sequence[Block]) -> list[str]:
    """Texts of a system prompt, without the attribution line."""
    texts = [content] if isinstance(content, str) else [_text(block) for block in content]
    clean = [
        _ATTRIBUTION.sub("", text, count=1) if _ATTRIBUTION.match(text) else text for text in texts
    ]
    return [text for text in clean if text]


def _user(message: InputMessage) -> list[Json]:
    """Results of tools are messages of their own, in the order in which they come."""
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    turns: list[Json] = []
    parts: list[Json] = []

    def flush() -> None:
        if parts:
            turns.append({"role": "user", "content": list(parts)})
            parts.clear()

    for block in message.content:
        if block.type == "tool_result":
            flush()
            content = block.content or ""
            text = content if isinstance(content, str) else "".join(map(_text, content))
            turns.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        elif block.type == "image":
            parts.append({"type": "image_url", "image_url": {"url": _image(block)}})
        else:
            parts.append({"type": "text", "text": _text(block)})
    flush()
    return turns


def _image(block: Block) -> str:
    """The address of an image; of one that is in the request, a data URI."""
    source = block.source or Source()
    match source.type:
        case "base64":
            return f"data:{source.media_type};base64,{source.data}"
        case "url":
            return source.url
        case _:
            raise ValidationError("`source` of an `image` must be of type `base64` or `url`")


def _assistant(message: InputMessage) -> Json:
    if isinstance(message.content, str):
        return {"role": "assistant", "content": message.content}
    texts, thoughts, calls = [], [], []
    for block in message.content:
        if block.type == "tool_use":
            arguments = json.dumps(block.input or {}, ensure_ascii=False)
            function = {"name": block.name, "arguments": arguments}
            calls.append({"id": block.id, "type": "function", "function": function})
        elif block.type in _THINKING:
            thoughts.append(block.thinking or "")
        else:
            texts.append(_text(block))
    turn: Json = {"role": "assistant", "content": "".join(texts) if texts or not calls else None}
    if any(thoughts):
        turn["reasoning_content"] = "".join(thoughts)
    if calls:
        turn["tool_calls"] = calls
    return turn


def _text(block: Block) -> str:
    if block.type != "text":
        raise ValidationError(
            f"content of type `{block.type[:64]}` is not supported by this server"
        )
    if block.text is None:
        raise ValidationError("`text` of a text block is missing")
    return block.text


def _tool(tool: Tool) -> Json:
    if tool.type not in (None, "custom"):
        raise ValidationError(
            f"the tool `{tool.name[:64]}` of type `{tool.type[:64]}` would run at Anthropic; this "
            "server has only the client's own tools"
        )
    function: Json = {"name": tool.name, "parameters": tool.input_schema or {"type": "object"}}
    if tool.description is not None:
        function["description"] = tool.description
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> object:
    match choice.type:
        case "auto" | "none":
            return choice.type
        case "any":
            return "required"
        case "tool":
            return {"type": "function", "function": {"name": choice.name}}
