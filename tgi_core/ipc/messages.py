"""The frames that cross between processes, type-checked on arrival."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tgi_core.contract import (
    AdapterLoaded,
    AdapterRef,
    EngineInfo,
    Event,
    Grammar,
    LoadRequest,
    ModelFiles,
    PromptEmbedded,
    PromptScored,
    Request,
    RequestFailed,
    RequestStarted,
    StepStats,
    TokenEvent,
    Vocabulary,
)


class Start(msgspec.Struct, tag=True, kw_only=True):
    """First frame: what to load, and with which plugins."""

    load: LoadRequest
    backend: str | None
    """None lets the model and the machine decide."""
    disabled_plugins: tuple[str, ...] = ()
    only_builtin_plugins: bool = False
    queue_policy: str = "fcfs"
    guidance_engine: str | None = None
    """None refuses grammars."""
    watermark_gamma: float = 0.5
    watermark_delta: float = 2.0
    watermark_key: int = 15485863
    max_step_tokens: int | None = None
    max_chunk_tokens: int | None = None
    prefix_caching: bool = True
    num_drafts: int = 0
    speculator: str = "ngram"
    draft_model: ModelFiles | None = None
    log_level: str = "INFO"
    json_logs: bool = False


class Submit(msgspec.Struct, tag=True):
    """A new request, or one that an engine before this one has begun."""

    request: Request


class Cancel(msgspec.Struct, tag=True):
    """Nobody wants the rest of a request."""

    request_id: str


class UseVocabulary(msgspec.Struct, tag=True):
    """The bytes of all tokens; sent before the first request with a grammar."""

    joined: bytes
    sizes: bytes
    """int32, little-endian: how many bytes each token has."""

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> UseVocabulary:
        """In this form a hundred thousand tokens are sent without a pause."""
        return cls(b"".join(vocabulary), np.array([*map(len, vocabulary)], "<i4").tobytes())

    def vocabulary(self) -> list[bytes]:
        """The tokens."""
        ends = np.cumsum(np.frombuffer(self.sizes, "<i4")).tolist()
        return [self.joined[begin:end] for begin, end in pairwise([0, *ends])]


class LoadAdapter(msgspec.Struct, tag=True):
    """Can this adapter be used? Answered by an AdapterLoaded, however often it is asked."""

    adapter: AdapterRef


class DropAdapter(msgspec.Struct, tag=True):
    """No new request will have this adapter."""

    adapter: AdapterRef


class StartTrials(msgspec.Struct, tag=True, kw_only=True):
    """First frame to the process that tries grammars."""

    guidance_engine: str
    disabled_plugins: tuple[str, ...] = ()
    only_builtin_plugins: bool = False
    vocabulary: UseVocabulary
    compile_s: float
    """Processor time that a compilation may take; beyond it the process is killed."""
    memory_bytes: int
    """What the process may have in all, beyond which it dies."""


class TryGrammar(msgspec.Struct, tag=True):
    """Can this grammar be used?"""

    grammar: Grammar


class Tried(msgspec.Struct, tag=True):
    """The answer to TryGrammar, and once, to StartTrials, that trials may begin."""

    fault: str | None


class Loading(msgspec.Struct, tag=True):
    """How far loading or warming up has come."""

    phase: str
    done: float
    total: float
    unit: str


class Ready(msgspec.Struct, tag=True):
    """The engine takes requests from now on."""

    info: EngineInfo
    backend: str


class SetupFailed(msgspec.Struct, tag=True):
    """The engine cannot start, and trying again would not help."""

    error: str
    """Name of a class in `tgi_core.errors`."""
    message: str


class StepDone(msgspec.Struct, tag=True, gc=False):
    """All events of a step. Of one request, those in earlier fields come first."""

    started: list[RequestStarted] = []
    scored: list[PromptScored] = []
    tokens: list[TokenEvent] = []
    embedded: list[PromptEmbedded] = []
    failed: list[RequestFailed] = []
    adapters: list[AdapterLoaded] = []
    stats: StepStats | None = None
    """Now and then."""

    @property
    def has_events(self) -> bool:
        """Whether it tells more than the stats."""
        return bool(
            self.started
            or self.scored
            or self.tokens
            or self.embedded
            or self.failed
            or self.adapters
        )

    @classmethod
    def of(cls, events: list[Event], stats: StepStats | None) -> StepDone:
        """Sorts events by kind."""
        tokens = [event for event in events if isinstance(event, TokenEvent)]
        frame = cls([], [], tokens, [], [], [], stats)
        if len(tokens) == len(events):
            return frame  # as after most steps
        for event in [event for event in events if not isinstance(event, TokenEvent)]:
            match event:
                case RequestStarted():
                    frame.started.append(event)
                case PromptScored():
                    frame.scored.append(event)
                case PromptEmbedded():
                    frame.embedded.append(event)
                case RequestFailed():
                    frame.failed.append(event)
                case AdapterLoaded():
                    frame.adapters.append(event)
        return frame


ToEngine = Start | UseVocabulary | Submit | Cancel | LoadAdapter | DropAdapter
FromEngine = Loading | Ready | SetupFailed | StepDone
ToTrials = StartTrials | TryGrammar
FromTrials = SetupFailed | Tried


def _encode_other(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    raise NotImplementedError(f"{type(value).__name__} does not cross processes")


def _decode_other(kind: type, value: Any) -> Any:
    if kind is Path:
        return Path(value)
    raise NotImplementedError(f"{kind.__name__} does not cross processes")


encoder = msgspec.msgpack.Encoder(enc_hook=_encode_other)
to_engine_decoder: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(
    ToEngine, dec_hook=_decode_other
)
from_engine_decoder: msgspec.msgpack.Decoder[FromEngine] = msgspec.msgpack.Decoder(
    FromEngine, dec_hook=_decode_other
)
to_trials_decoder: msgspec.msgpack.Decoder[ToTrials] = msgspec.msgpack.Decoder(ToTrials)
from_trials_decoder: msgspec.msgpack.Decoder[FromTrials] = msgspec.msgpack.Decoder(FromTrials)
