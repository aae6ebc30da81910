"""The prompt of a chat request: its messages through the model's template. Generates nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tgi_core.api.openai.chat_schema import ChatMessage, ChatRequest
from tgi_core.api.openai.convert import unsupported
from tgi_core.api.openai.tools import check_results, past_call, wanted_tools
from tgi_core.api.service import ServedModel, maybe_in_thread
from tgi_core.errors import ValidationError
from tgi_core.text.chat import ChatTemplate, Message, PastCall
from tgi_core.text.plain import IMAGE_MARK, GuardedText, without_marks
from tgi_core.text.tools import MAX_DEPTH, WantedTools, forced_call, in_words, is_deep
from tgi_core.text.validate import check_generates

_SHORT_ID_CHARS = 9
_USUAL_VARIABLES = frozenset(
    {"messages", "tools", "bos_token", "eos_token", "add_generation_prompt", "self"}
)


async def chat_prompt(model: ServedModel, request: ChatRequest) -> GuardedText:
    """What the model is to continue; the template's special tokens are in the text.

    Raises:
        ValidationError: there are no messages, a part is something that the model does not take, or
            tools make no sense.
        ToolError: the tool that is to be called does not exist.
        TemplateError: the template cannot render them.
    """
    check_generates(model.limits)
    wanted = wanted_tools(request)
    check_results(request.messages)
    messages = chat_messages(request, sees=model.images is not None)
    template = model.template
    if model.tool_parser is not None and model.tool_parser.short_ids:
        messages = [_with_short_ids(message) for message in messages]
    if not template.knows_tools:
        messages = _without_roles_of_tools(messages)
    messages = _with_tool_prompt(messages, wanted, template, request.tool_prompt)
    tools = [tool.as_openai() for tool in wanted.tools] if template.knows_tools else []
    more = _template_variables(request)
    num_chars = sum(len(message.content or "") for message in messages)
    prompt = await maybe_in_thread(
        num_chars,
        lambda: template.render(
            messages, continue_final=request.continue_final_message, tools=tools, more=more
        ),
    )
    if wanted.forced:
        return replace(prompt, text=prompt.text + _beginning(model, wanted, prompt.text))
    return prompt


def _template_variables(request: ChatRequest) -> dict[str, Any]:
    """Those of the client; the usual ones are not for it to set."""
    more = request.chat_template_kwargs or {}
    for name in more:
        if name in _USUAL_VARIABLES or not name.isidentifier():
            raise ValidationError(f"`chat_template_kwargs` cannot set {name[:64]!r}")
    if is_deep(more):
        raise ValidationError(
            f"`chat_template_kwargs` are nested more than {MAX_DEPTH} levels deep"
        )
    return more


def _beginning(model: ServedModel, wanted: WantedTools, prompt: str) -> str:
    """What the answer begins with if it has to be a call: no thought, then what leads to JSON."""
    beginning = forced_call(model.tool_parser, wanted).beginning
    reasoning = model.reasoning_parser
    if reasoning is not None and prompt.rstrip().endswith(reasoning.begin):
        gap = "\n" if prompt.endswith("\n") else "\n\n"
        return f"{gap}{reasoning.end}\n\n{beginning}"
    return beginning


def chat_messages(request: ChatRequest, *, sees: bool = False) -> list[Message]:
    """The conversation, each message as one text with marks for its images.

    Args:
        request: what was asked.
        sees: whether the model takes images.

    Raises:
        ValidationError: there is none, or a part of it is something that the model does not take.
    """
    if not request.messages:
        raise ValidationError("`messages` cannot be empty")
    return [
        Message(
            message.role,
            _content(message, sees),
            name=message.name,
            reasoning=message.reasoning_content,
            tool_calls=tuple(map(past_call, message.tool_calls or ())),
            tool_call_id=message.tool_call_id,
            images=_images(message),
        )
        for message in request.messages
    ]


def _content(message: ChatMessage, sees: bool) -> str | None:
    if message.content is None:
        if message.tool_calls:
            return None
        raise ValidationError("`content` of a message cannot be null")
    if isinstance(message.content, str):
        return without_marks(message.content)
    texts = []
    for part in message.content:
        match part.type:
            case "text":
                if part.text is None:
                    raise ValidationError("`text` of a message's part cannot be null")
                texts.append(without_marks(part.text))
            case "image_url":
                if not sees:
                    raise ValidationError(
                        "image modality is not supported: this server's model takes text alone"
                    )
                if part.image_url is None:
                    raise ValidationError("`image_url` of a message's part cannot be null")
                texts.append(IMAGE_MARK)
            case other:
                raise unsupported(other[:64])
    return "".join(texts)


def _images(message: ChatMessage) -> tuple[str, ...]:
    """What the client gave as images."""
    parts = message.content if isinstance(message.content, list) else ()
    found = (part.image_url for part in parts if part.type == "image_url")
    return tuple(one if isinstance(one, str) else one.url for one in found if one is not None)


def _with_tool_prompt(
    messages: list[Message], wanted: WantedTools, template: ChatTemplate, tool_prompt: str | None
) -> list[Message]:
    """Tells of tools in words, if the template does not or the client has words of its own."""
    last = messages[-1]
    if not wanted.tools or last.content is None:
        return messages
    if not template.knows_tools:
        words = in_words(wanted.tools, tool_prompt)
    elif tool_prompt:
        words = f"\n---\n{tool_prompt}"
    else:
        return messages
    return [*messages[:-1], replace(last, content=last.content + words)]


def _without_roles_of_tools(messages: Sequence[Message]) -> list[Message]:
    """A template that knows no tools knows no such role either; many refuse what is unknown."""
    return [
        replace(message, role="user") if message.role == "tool" else message for message in messages
    ]


def _with_short_ids(message: Message) -> Message:
    """Ids that such templates take; equal ones stay equal."""
    result = message.tool_call_id
    return replace(
        message,
        tool_calls=tuple(
            PastCall(_short_id(call.id), call.name, call.arguments) for call in message.tool_calls
        ),
        tool_call_id=None if result is None else _short_id(result),
    )


def _short_id(id_: str) -> str:
    if len(id_) == _SHORT_ID_CHARS and id_.isascii() and id_.isalnum():
        return id_
    return hashlib.sha256(id_.encode()).hexdigest()[:_SHORT_ID_CHARS]
