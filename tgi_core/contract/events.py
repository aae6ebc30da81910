"""What an engine reports about its requests, and about adapters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tgi_core.contract.adapters import AdapterRef


class FinishReason(Enum):
    """Why a sequence ended."""

    LENGTH = "length"
    """`max_new_tokens` reached, or the longest sequence that the engine holds."""
    EOS = "eos"
    """The model produced an end-of-sequence token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TopToken:
    """One of the most probable tokens at a place."""

    token: int
    logprob: float


@dataclass(slots=True)
class TokenEvent:
    """New tokens of one request. Not frozen, for a step makes hundreds: that would take four times
    as long.
    """

    request_id: str
    tokens: tuple[int, ...]
    """In order, at least one."""
    logprobs: tuple[float, ...] = ()
    """One for each token, if asked for."""
    top: tuple[tuple[TopToken, ...], ...] = ()
    """One list for each token, best first, if asked for."""
    finish: FinishReason | None = None
    """Set with the last tokens; nothing follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestStarted:
    """A request left the queue: its first token is being computed."""

    request_id: str
    queue_s: float
    """How long it waited."""
    num_cached: int
    """Tokens of the prompt that the prefix cache supplied."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptScored:
    """Log-probabilities of a prompt, sent once before the first token."""

    request_id: str
    logprobs: tuple[float, ...]
    """For the second token of the prompt and all that follow."""
    top: tuple[tuple[TopToken, ...], ...] = ()
    """One list for each of `logprobs`, best first, if the request asks for top tokens."""
    start: tuple[int, ...] = ()
    """What the decoder begins with, if the prompt went to an encoder: these tokens stand for the
    prompt then, for an encoder gives no log-probabilities."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptEmbedded:
    """The vector of a prompt; nothing follows."""

    request_id: str
    vector: bytes
    """float32, little-endian, `Embedding.size` numbers. Not normalized."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestFailed:
    """A request ended without a finish reason; nothing follows."""

    request_id: str
    message: str
    invalid: bool = False
    """The request asked for something impossible, so that trying again cannot help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterLoaded:
    """The answer to a wish to load an adapter, in no particular order with the other events."""

    adapter: AdapterRef
    fault: str | None = None
    """Why it cannot be used."""


Event = TokenEvent | RequestStarted | PromptScored | PromptEmbedded | RequestFailed | AdapterLoaded
