"""Keeps an engine process alive, on the API side, and carries open requests from one to the next.

When an engine dies, a new one is started and gets every open request with the tokens it has so
far. A request that was at work in two deaths without a token in between is a suspect: suspects go
to the new engine one at a time, so that the one which kills engines is found and fails alone.
An engine that has work and says nothing for too long hangs, and is killed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from time import monotonic

from tgi_core import errors
from tgi_core.contract import AdapterRef, EngineInfo, Feature, Request, RequestFailed, StepStats
from tgi_core.engine.open_requests import OpenRequest
from tgi_core.engine.watch import LOOKS, Watch
from tgi_core.errors import BadAdapter, EngineLost, GenerationError, NotReady, SetupError
from tgi_core.ipc.client import Connection, Listener
from tgi_core.ipc.messages import (
    Cancel,
    DropAdapter,
    FromEngine,
    LoadAdapter,
    Loading,
    Ready,
    SetupFailed,
    Start,
    StepDone,
    Submit,
    UseVocabulary,
)

logger = logging.getLogger(__name__)

_SUSPICIOUS_STRIKES = 2
_MAX_BARREN_DEATHS = 4
"""Engines that may die one after another before any of them produced a token."""
_MAX_DEATHS_WHILE_LOADING = 2
"""The same for a model that no engine has ever got ready: it is probably the model's fault."""
_RESTART_DELAY_S = 0.5
_ADVICE = {
    signal.SIGILL: "the CPU lacks an instruction that the backend was compiled for",
    signal.SIGBUS: "shared memory or the disk under a memory-mapped file is full",
    signal.SIGSEGV: "a fault in native code",
    signal.SIGABRT: "native code gave up; the lines above say why",
    signal.SIGKILL: "somebody killed it, or the system ran out of memory",
}


class Supervisor:
    """Implements `EngineClient`. Use from one event loop."""

    def __init__(self, on_progress: Callable[[Loading], None], step_timeout_s: float = 600) -> None:
        """An engine may make no progress for so long while it has work; 0 is for ever."""
        self._on_progress = on_progress
        self._step_timeout_s = step_timeout_s
        self._watch = Watch()
        """Of the present engine."""
        self._listener = Listener()
        self._process: asyncio.subprocess.Process | None = None
        self._connection: Connection | None = None
        self._ready = asyncio.Event()
        self._open: dict[str, OpenRequest] = {}
        self._suspects: deque[OpenRequest] = deque()
        self._suspect: OpenRequest | None = None
        self._barren_deaths = 0
        self._loading_adapters: dict[AdapterRef, asyncio.Future[None]] = {}
        self._vocabulary: UseVocabulary | None = None
        self._vocabulary_sent = False
        """Whether the present engine has it."""
        self._setup_error: SetupError | None = None
        self._lost: EngineLost | None = None
        self._closing = False
        self._info: EngineInfo | None = None
        self._stats = self._past_stats = StepStats()
        self.backend = ""
        """Name of the backend, once an engine was ready."""
        self.num_deaths = 0
        """See `EngineClient.num_deaths`."""

    @property
    def info(self) -> EngineInfo | None:
        """See `EngineClient.info`."""
        return self._info

    @property
    def ready(self) -> bool:
        """See `EngineClient.ready`."""
        return self._ready.is_set()

    @property
    def stats(self) -> StepStats:
        """See `EngineClient.stats`."""
        return self._stats.after(self._past_stats)

    @property
    def num_open(self) -> int:
        """Requests that are not finished."""
        return len(self._open)

    @property
    def engine_pid(self) -> int | None:
        """Process id of the present engine."""
        return self._process.pid if self._process else None

    async def run(self, start: Start, on_ready: Callable[[EngineInfo], None]) -> None:
        """Starts engines, one after the other, until `close`.

        Args:
            start: what each of them is told first.
            on_ready: called each time an engine takes requests.

        Raises:
            SetupError: the engine says that it cannot start.
            EngineLost: engines die without getting anything done.
        """
        self._start, self._on_ready = start, on_ready
        await self._listener.listen(lambda: Connection(self._on_messages, self._on_connected))
        try:
            while not self._closing:
                await self._run_one()
                if self._setup_error is not None:
                    raise self._setup_error
                if self._closing:
                    return
                self._after_death()
                await asyncio.sleep(_RESTART_DELAY_S * (self._barren_deaths > 1))
        except (SetupError, EngineLost) as error:
            self._lose_all(error)
            raise
        finally:
            self._listener.close()

    def submit(self, request: Request) -> OpenRequest:
        """See `EngineClient.submit`."""
        if self._lost is not None:
            raise self._lost
        opened = OpenRequest(request, self._on_end)
        self._open[request.request_id] = opened
        if self.ready:
            self._send(opened)
        return opened

    def use_vocabulary(self, vocabulary: UseVocabulary) -> None:
        """What each engine is told before its first request with a grammar."""
        self._vocabulary = vocabulary

    async def load_adapter(self, adapter: AdapterRef) -> None:
        """See `EngineClient.load_adapter`."""
        if self._connection is None or self._info is None or not self.ready:
            raise NotReady("No engine is ready now. Try again in a moment.")
        if Feature.ADAPTER not in self._info.features:
            raise BadAdapter("this backend holds no adapters")
        answer = self._loading_adapters.get(adapter)
        if answer is None:
            answer = asyncio.get_running_loop().create_future()
            self._loading_adapters[adapter] = answer
            self._connection.send(LoadAdapter(adapter))
        # whoever asks may go away; the answer comes all the same
        await asyncio.shield(answer)

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """See `EngineClient.drop_adapter`."""
        if self._connection is not None:
            self._connection.send(DropAdapter(adapter))

    async def close(self) -> None:
        """Ends the engine; open requests are lost."""
        self._closing = True
        # first, so that whoever waits for tokens is told at once
        self._lose_all(EngineLost("the server was shut down"))
        if self._connection is not None:
            self._connection.close()
        if self._process is not None and self._process.returncode is None:
            try:
                await asyncio.wait_for(self._process.wait(), timeout=5)
            except asyncio.TimeoutError:
                self._process.kill()

    async def _run_one(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tgi_core.engine.process",
            str(self._listener.path),
            # a Ctrl-C on the terminal is for the server, which then lets requests finish
            start_new_session=True,
        )
        began = monotonic()
        self._watch = Watch()
        watching = asyncio.create_task(self._end_if_it_hangs(self._process))
        status = await self._process.wait()
        watching.cancel()
        self._ready.clear()
        self._connection = None
        # not asked again: the adapter may be what it died of
        for answer in self._loading_adapters.values():
            _fail(answer, GenerationError("the engine process died while it read the adapter"))
        self._loading_adapters.clear()
        # it has no sequences and no cache any more, but what it did stays done
        self._past_stats, self._stats = self._stats.after(self._past_stats), StepStats()
        if not self._closing and self._setup_error is None:
            self.num_deaths += 1
            logger.error(
                "the engine process %s after %.1f s with %d open requests",
                _how_it_ended(status),
                monotonic() - began,
                len(self._open),
            )

    async def _end_if_it_hangs(self, process: asyncio.subprocess.Process) -> None:
        while self._step_timeout_s:
            await asyncio.sleep(self._step_timeout_s / LOOKS)
            if self._watch.look(at_work=any(opened.sent for opened in self._open.values())):
                logger.error("no token has come for %g s: the engine hangs", self._step_timeout_s)
                process.kill()
                return

    def _on_connected(self, connection: Connection) -> None:
        self._connection, self._vocabulary_sent = connection, False
        connection.send(self._start)

    def _on_messages(self, connection: Connection, messages: list[FromEngine]) -> None:
        if connection is not self._connection:
            return  # the last words of an engine that is known to be dead
        for message in messages:
            match message:
                case StepDone():
                    self._watch.hear(message)
                    self._on_step(message)
                case Loading():
                    self._on_progress(message)
                case Ready(info, backend):
                    self._on_engine_ready(info, backend)
                case SetupFailed(name, text):
                    kind = getattr(errors, name, SetupError)
                    self._setup_error = kind(text)

    def _on_engine_ready(self, info: EngineInfo, backend: str) -> None:
        self._info, self.backend = info, backend
        self._ready.set()
        for opened in tuple(self._open.values()):
            if opened.strikes >= _SUSPICIOUS_STRIKES:
                self._suspects.append(opened)
            else:
                self._send(opened)
        self._next_suspect()
        self._on_ready(info)

    def _on_step(self, step: StepDone) -> None:
        for events in (step.started, step.scored, step.tokens, step.embedded, step.failed):
            for event in events:
                opened = self._open.get(event.request_id)
                if opened is not None:
                    opened.deliver(event)
        for loaded in step.adapters:
            answer = self._loading_adapters.pop(loaded.adapter, None)
            if answer is not None and loaded.fault is not None:
                _fail(answer, BadAdapter(loaded.fault))
            elif answer is not None and not answer.done():
                answer.set_result(None)
        if step.tokens or step.embedded:
            self._barren_deaths = 0
            if self._suspect is not None and self._suspect.strikes == 0:
                self._next_suspect()
        if step.stats is not None:
            self._stats = step.stats

    def _on_end(self, opened: OpenRequest) -> None:
        del self._open[opened.request.request_id]
        if opened.cancelled and opened.sent and self._connection is not None:
            self._connection.send(Cancel(opened.request.request_id))
        if opened in self._suspects:
            self._suspects.remove(opened)
        if opened is self._suspect:
            self._next_suspect()

    def _send(self, opened: OpenRequest) -> None:
        if self._connection is not None:
            opened.sent = True
            if opened.request.grammar and self._vocabulary and not self._vocabulary_sent:
                self._vocabulary_sent = True
                self._connection.send(self._vocabulary)
            self._connection.send(Submit(opened.as_resumed()))

    def _next_suspect(self) -> None:
        self._suspect = self._suspects.popleft() if self._suspects else None
        if self._suspect is not None:
            self._send(self._suspect)

    def _after_death(self) -> None:
        """Decides who was to blame, and whether there is a point in going on."""
        guilty, self._suspect = self._suspect, None
        self._suspects.clear()
        self._barren_deaths += 1
        if guilty is not None:
            logger.error("request %s kills engines; it fails", guilty.request.request_id)
            message = "the engine process died each time it worked on this request"
            guilty.deliver(RequestFailed(request_id=guilty.request.request_id, message=message))
            self._barren_deaths = 0
        most = _MAX_BARREN_DEATHS if self._info is not None else _MAX_DEATHS_WHILE_LOADING
        if self._barren_deaths >= most:
            raise EngineLost(
                f"{self._barren_deaths} engine processes died one after another without producing "
                "a token; the log says how each of them ended."
            )
        for opened in self._open.values():
            opened.strikes += opened.sent
            opened.sent = False

    def _lose_all(self, error: Exception) -> None:
        self._lost = error if isinstance(error, EngineLost) else EngineLost(str(error))
        for opened in tuple(self._open.values()):
            opened.lose(self._lost)


def _fail(answer: asyncio.Future[None], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # whoever asked may be gone


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"exited with status {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"was ended by signal {-status}"
    advice = _ADVICE.get(number)
    return f"was ended by {number.name}" + (f" ({advice})" if advice else "")


def kill_engine(supervisor: Supervisor) -> None:
    """Kills the present engine at once; for tests and for drills."""
    if supervisor.engine_pid is not None:
        os.kill(supervisor.engine_pid, signal.SIGKILL)
