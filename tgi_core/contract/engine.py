"""Engine: all that the API layer sees of whatever produces tokens.

Core's `StepEngine` implements it over any `StepBackend`. A runtime with a scheduler of its own
implements it directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tgi_core.contract.adapters import AdapterRef
from tgi_core.contract.embedding import Embedding
from tgi_core.contract.events import Event
from tgi_core.contract.guidance import Vocabulary
from tgi_core.contract.request import Feature, Request
from tgi_core.contract.stats import StepStats

if TYPE_CHECKING:
    from tgi_core.contract.backend import LoadRequest, Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What an engine can be asked for, once it is ready."""

    device: str
    vocab_size: int
    max_prompt_tokens: int
    """Longest prompt."""
    max_sequence_tokens: int
    """Longest prompt and output together."""
    max_requests: int
    """How many requests may be open; more would only wait."""
    cache_tokens: int
    features: frozenset[Feature]
    """What a request may ask for beyond temperature, top-k and top-p."""
    generates: bool = True
    """False if the model only embeds."""
    encodes: bool = False
    """Prompts go to an encoder: only the output is the decoder's."""
    embedding: Embedding | None = None
    """How texts are embedded; None if they cannot be."""
    max_adjacent_images: int | None = None
    """Most images side by side in a prompt; None: any number."""

    def fault_of(self, request: Request) -> str | None:
        """Why a request can never be served, as far as this tells; the API layer checks the same
        things first.
        """
        tokens = (*request.prompt, *request.resumed)
        stop = request.stop
        if not request.prompt:
            return "the prompt holds no token"
        if len(request.prompt) > self.max_prompt_tokens:
            return (
                f"the prompt holds {len(request.prompt)} tokens and may hold at most "
                f"{self.max_prompt_tokens}"
            )
        if not (self.generates or request.embedding):
            return "this model embeds texts and generates none"
        if not request.embedding and len(tokens) >= self.max_sequence_tokens:
            return (
                f"{len(tokens)} tokens leave no room: a sequence holds {self.max_sequence_tokens}"
            )
        if min(tokens) < 0 or max(tokens) >= self.vocab_size:
            return f"token ids must be at least 0 and below {self.vocab_size}"
        bad = [t for t, _ in request.sampling.logit_bias if not 0 <= t < self.vocab_size]
        if bad:
            return f"logit_bias names the token {bad[0]}; the vocabulary holds {self.vocab_size}"
        if not request.embedding and stop.max_new_tokens <= len(request.resumed):
            return "max_new_tokens leaves nothing to generate"
        if request.grammar is not None and not stop.eos_token_ids:
            return "a grammar needs a token that ends a sequence, and this model has none"
        wishes = request.wishes - self.features
        if wishes:
            return f"this engine does not support {min(wish.value for wish in wishes)}"
        return None


class Engine(Protocol):
    """Takes requests, gives events. All calls come from one thread."""

    def start(self, request: LoadRequest, progress: Progress) -> EngineInfo:
        """Loads and warms up.

        Raises:
            SetupError: the model cannot be served.
        """
        ...

    def submit(self, request: Request) -> None:
        """Queues a request. What is wrong with it comes back as RequestFailed."""
        ...

    def cancel(self, request_id: str) -> None:
        """Forgets a request and frees all that it holds; an unknown id is no error.

        No event of this request follows.
        """
        ...

    def poll(self, timeout_s: float) -> Sequence[Event]:
        """Works until there are events, but no longer than about `timeout_s` without work.

        Progress is an event, or more `StepStats.prefill_tokens` than before. An engine that has
        requests and makes none for the time of `--step-timeout` is taken for hung, however often
        `poll` comes back, and its process replaced.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether `poll` has work to do now."""
        ...

    def stats(self) -> StepStats:
        """Gauges and counters."""
        ...

    def close(self) -> None:
        """Frees the device."""
        ...


@runtime_checkable
class TakesVocabulary(Protocol):
    """An engine that leaves guidance to core; one with a tokenizer of its own needs no telling."""

    def use_vocabulary(self, vocabulary: Vocabulary) -> None:
        """The bytes of all tokens; comes before the first request with a grammar."""
        ...


@runtime_checkable
class TakesAdapters(Protocol):
    """An engine whose requests may have adapters; its `EngineInfo.features` says so too."""

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Reads and checks an adapter; an `AdapterLoaded` tells what came of it."""
        ...

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """Nobody will ask for an adapter any more; requests that have it go on."""
        ...
