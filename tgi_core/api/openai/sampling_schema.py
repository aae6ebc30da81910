"""The fields that chat and completion requests of OpenAI's dialect have in common."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi_core.api.caller import CacheSalt
from tgi_core.api.number_types import Int32, UInt, UInt32


class StreamOptions(msgspec.Struct):
    """What a stream should hold besides text."""

    include_usage: bool = False
    continuous_usage_stats: bool = False
    """The cost so far with every event; not OpenAI's, but some load generators count by it."""


class SamplingFields(msgspec.Struct, kw_only=True):
    """How to generate. None is "not said"."""

    model: str | None = None
    max_tokens: UInt32 | None = None
    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    logit_bias: dict[int, float] | list[float] | None = None
    """By token; a list is what TGI takes, and it means nothing."""
    stop: str | list[str] | None = None
    seed: UInt | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: UInt32 | None = None
    best_of: UInt32 | None = None
    response_format: Any = None

    # not OpenAI's, but widely used
    top_k: Int32 | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    ignore_eos: bool | None = None
    grammar: Any = None
    adapter_id: str | None = None
    cache_salt: CacheSalt | None = None
    watermark: bool | None = None


class PromptTokensDetails(msgspec.Struct):
    """Where the prompt's tokens came from."""

    cached_tokens: int


class Usage(msgspec.Struct):
    """What a request cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | msgspec.UnsetType
