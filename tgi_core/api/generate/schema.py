"""The objects of TGI's own routes, as they are on the wire; the order of fields is TGI's."""

from __future__ import annotations

from typing import Any

import msgspec

from tgi_core.api.caller import CacheSalt
from tgi_core.api.number_types import Int32, UInt, UInt32


class GenerateParameters(msgspec.Struct):
    """How to generate. None is "not said"."""

    best_of: UInt | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    top_k: Int32 | None = None
    top_p: float | None = None
    typical_p: float | None = None
    do_sample: bool = False
    max_new_tokens: UInt32 | None = None
    return_full_text: bool | None = None
    stop: list[str] = []
    truncate: UInt | None = None
    watermark: bool = False
    details: bool = False
    decoder_input_details: bool = False
    seed: UInt | None = None
    top_n_tokens: UInt32 | None = None
    grammar: Any = None
    adapter_id: str | None = None
    cache_salt: CacheSalt | None = None


def unsaid_parameters() -> GenerateParameters:
    """TGI samples if `parameters` is absent, and is greedy if it is {}; clients rely on both."""
    return GenerateParameters(do_sample=True)


class GenerateRequest(msgspec.Struct):
    """Body of /generate, /generate_stream and /tokenize."""

    inputs: str
    parameters: GenerateParameters = msgspec.field(default_factory=unsaid_parameters)


class CompatGenerateRequest(GenerateRequest):
    """Body of the root route."""

    stream: bool = False


class Token(msgspec.Struct):
    """A generated token."""

    id: int
    text: str
    logprob: float | None
    special: bool


class PrefillToken(msgspec.Struct):
    """A token of the prompt; the first one has no log-probability."""

    id: int
    text: str
    logprob: float | None


class BestOfSequence(msgspec.Struct, omit_defaults=True):
    """One of the texts that were not the best."""

    generated_text: str
    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    top_tokens: list[list[Token]] = []


class Details(msgspec.Struct, omit_defaults=True):
    """How a text came about."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    prefill: list[PrefillToken]
    tokens: list[Token]
    best_of_sequences: list[BestOfSequence] = []
    top_tokens: list[list[Token]] = []


class GenerateResponse(msgspec.Struct, omit_defaults=True):
    """Answer of /generate."""

    generated_text: str
    details: Details | None = None


class StreamDetails(msgspec.Struct):
    """How a streamed text came about."""

    finish_reason: str
    generated_tokens: int
    seed: int | None
    input_length: int


class StreamResponse(msgspec.Struct):
    """One event of /generate_stream."""

    index: int
    token: Token
    top_tokens: list[Token] | msgspec.UnsetType = msgspec.UNSET
    generated_text: str | None = None
    details: StreamDetails | None = None


class TokenizeToken(msgspec.Struct):
    """A token of a prompt and the bytes that it came from."""

    id: int
    text: str
    start: int
    stop: int


class ChatTokenizeResponse(msgspec.Struct):
    """Answer of /chat_tokenize."""

    tokenize_response: list[TokenizeToken]
    templated_text: str
