"""The objects of /v1/completions, as they are on the wire."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi_core.api.number_types import UInt32
from tgi_core.api.openai.sampling_schema import SamplingFields, Usage


class CompletionRequest(SamplingFields, kw_only=True):
    """Body of /v1/completions."""

    prompt: str | list[str | int | list[int]]
    """A text, texts, the token ids of one prompt, or those of several."""
    logprobs: UInt32 | None = None
    echo: bool | None = None
    suffix: Any = None


class CompletionLogprobs(msgspec.Struct):
    """The tokens of a text, one entry of each list a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None] | None] | None
    text_offset: list[int]
    """Where each token begins in the text, in characters."""


class CompletionChoice(msgspec.Struct):
    """A text, or what is new in it; `finish_reason` is null until its end."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None
    stop_reason: str | msgspec.UnsetType = msgspec.UNSET
    """Not OpenAI's: the stop string that ended the text."""


class Completion(msgspec.Struct):
    """Answer of /v1/completions, whole or one event of it."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str
    choices: list[CompletionChoice]
    usage: Usage | msgspec.UnsetType | None
