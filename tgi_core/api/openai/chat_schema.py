"""The objects of /v1/chat/completions, as they are on the wire."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi_core.api.number_types import UInt32
from tgi_core.api.openai.sampling_schema import SamplingFields, Usage


class ImageUrl(msgspec.Struct):
    """An image; how closely it is looked at is the model's business."""

    url: str


class ContentPart(msgspec.Struct):
    """A part of a message."""

    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None


class CalledFunction(msgspec.Struct):
    """A function and what it was called with."""

    name: str
    arguments: str | dict[str, Any] | None = None
    """JSON as text; an object is taken as well."""
    parameters: str | dict[str, Any] | None = None
    """TGI's other name of `arguments`."""


class PastToolCall(msgspec.Struct):
    """A call that the assistant made before."""

    function: CalledFunction
    id: str = ""
    type: str = "function"


class ChatMessage(msgspec.Struct):
    """One turn of the conversation."""

    role: str
    content: str | list[ContentPart] | None = None
    name: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[PastToolCall] | None = None
    tool_call_id: str | None = None


class FunctionDefinition(msgspec.Struct):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: Any = None
    arguments: Any = None
    """TGI's other name of `parameters`."""


class ToolDefinition(msgspec.Struct):
    """A tool; only functions are known."""

    type: str = "function"
    function: FunctionDefinition | None = None


class ChatRequest(SamplingFields, kw_only=True):
    """Body of /v1/chat/completions."""

    messages: list[ChatMessage]
    max_completion_tokens: UInt32 | None = None
    """The newer name of max_tokens; wins if both are given."""
    logprobs: bool | None = None
    top_logprobs: UInt32 | None = None
    tools: list[ToolDefinition] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    tool_prompt: str | None = None
    """TGI's: what the model is told about tools, behind the last message."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Not OpenAI's, but widely used: more variables for the chat template."""
    continue_final_message: bool | None = None
    """Whether the model goes on with the last message instead of answering it; not said, it does
    so if that message is the assistant's, as TGI."""


class TopLogprob(msgspec.Struct):
    """A token that could have been."""

    token: str
    logprob: float | None
    bytes: list[int] | msgspec.UnsetType | None


class TokenLogprob(msgspec.Struct):
    """A token, and what could have been instead."""

    token: str
    logprob: float | None
    bytes: list[int] | msgspec.UnsetType | None
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """The tokens of a text."""

    content: list[TokenLogprob]


class CallText(msgspec.Struct, omit_defaults=True):
    """A function and its arguments, or what is new of them."""

    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct):
    """A call in a whole answer."""

    id: str
    type: str
    function: CallText


class AnswerMessage(msgspec.Struct):
    """What the model said."""

    role: str
    content: str | None
    """None if there are only calls."""
    reasoning_content: str | msgspec.UnsetType = msgspec.UNSET
    """Not OpenAI's, but widely used: what it said to itself before."""
    tool_calls: list[ToolCall] | msgspec.UnsetType = msgspec.UNSET


class ChatChoice(msgspec.Struct):
    """An answer."""

    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    stop_reason: str | msgspec.UnsetType = msgspec.UNSET
    """Not OpenAI's: the stop string that ended the text."""


class ChatCompletion(msgspec.Struct):
    """Answer of /v1/chat/completions."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: Usage


class ToolCallDelta(msgspec.Struct, kw_only=True):
    """What is new of a call; id and type come with its name."""

    index: int
    id: str | msgspec.UnsetType = msgspec.UNSET
    type: str | msgspec.UnsetType = msgspec.UNSET
    function: CallText


class Delta(msgspec.Struct, omit_defaults=True):
    """What is new in an answer."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None


class ChatChunkChoice(msgspec.Struct):
    """What is new in a choice."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None
    stop_reason: str | msgspec.UnsetType = msgspec.UNSET


class ChatChunk(msgspec.Struct):
    """One event of a streamed answer."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: Usage | None
