"""The engine process's main loop: take messages, work, send events."""

from __future__ import annotations

from time import monotonic
from typing import Protocol

from tgi_core.contract import Engine, TakesAdapters, TakesVocabulary
from tgi_core.ipc.messages import (
    Cancel,
    DropAdapter,
    FromEngine,
    LoadAdapter,
    Start,
    StepDone,
    Submit,
    ToEngine,
    UseVocabulary,
)

_STATS_INTERVAL_S = 0.5
_POLL_S = 0.05


class Channel(Protocol):
    """The engine's end of the connection to the API process."""

    def receive(self, timeout_s: float | None) -> ToEngine | None:
        """See `EngineSocket.receive`."""
        ...

    def send(self, message: FromEngine) -> None:
        """See `EngineSocket.send`."""
        ...


def serve(engine: Engine, channel: Channel) -> None:
    """Runs for as long as the process lives; ends by an exception of the backend only."""
    told_s = 0.0
    while True:
        message = channel.receive(0 if engine.busy else None)
        while message is not None:
            _handle(engine, message)
            message = channel.receive(0)
        events = engine.poll(_POLL_S)
        now = monotonic()
        stats = None
        if now - told_s >= _STATS_INTERVAL_S or not engine.busy:
            stats, told_s = engine.stats(), now
        if events or stats is not None:
            channel.send(StepDone.of(list(events), stats))


def _handle(engine: Engine, message: ToEngine) -> None:
    match message:
        case Submit(request):
            engine.submit(request)
        case Cancel(request_id):
            engine.cancel(request_id)
        case UseVocabulary():
            if isinstance(engine, TakesVocabulary):
                engine.use_vocabulary(message.vocabulary())
        case LoadAdapter(adapter):
            if isinstance(engine, TakesAdapters):
                engine.load_adapter(adapter)
        case DropAdapter(adapter):
            if isinstance(engine, TakesAdapters):
                engine.drop_adapter(adapter)
        case Start():
            raise ValueError("the engine was started twice")
