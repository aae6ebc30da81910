"""Carries generations between the engine's thread and TensorRT-LLM's, which wants an event loop.

Knows neither requests nor events: a generation is a number here.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from time import monotonic
from typing import TYPE_CHECKING

from tgi_backend_trtllm.job import Chunk, Job, Load

if TYPE_CHECKING:
    from tgi_backend_trtllm.vendor import Generation, Model

_STATS_INTERVAL_S = 0.5

Told = tuple[int, Chunk | Exception]
"""The number of a generation, and what is new of it. An exception is its end; any but JobRefused
is everybody's."""


class Pump:
    """A thread with an event loop, in which the library is called."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.load = Load()
        """The executor's gauges, half a second old at most while it works."""
        self._told: queue.SimpleQueue[Told] = queue.SimpleQueue()
        self._running: dict[int, Generation] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="trtllm", daemon=True)
        self._thread.start()

    def begin(self, number: int, job: Job) -> None:
        """Hands a generation to the library."""
        self._loop.call_soon_threadsafe(self._begin, number, job)

    def abort(self, number: int) -> None:
        """Ends a generation; what is still told of it, nobody wants to hear."""
        self._loop.call_soon_threadsafe(self._abort, number)

    def take(self, timeout_s: float) -> list[Told]:
        """All that is new; waits for the first of it, but no longer than this."""
        told: list[Told] = []
        try:
            told.append(self._told.get(timeout=timeout_s) if timeout_s else self._told.get_nowait())
            while True:
                told.append(self._told.get_nowait())
        except queue.Empty:
            return told

    def wait_for_load(self, timeout_s: float) -> Load:
        """The first gauges that know the size of the cache, or what there is by then."""
        deadline = monotonic() + timeout_s
        while not self.load.cache_tokens and monotonic() < deadline:
            asyncio.run_coroutine_threadsafe(self._look(), self._loop).result()
        return self.load

    def close(self) -> None:
        """Ends all generations, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        watching = self._loop.create_task(self._watch())
        self._loop.run_forever()
        for task in (watching, *self._tasks):
            task.cancel()
        self._loop.run_until_complete(
            asyncio.gather(watching, *self._tasks, return_exceptions=True)
        )

    def _begin(self, number: int, job: Job) -> None:
        try:
            generation = self._model.generate(job)
        except Exception as error:
            self._told.put((number, error))
            return
        self._running[number] = generation
        task = self._loop.create_task(self._follow(number, generation))
        # the loop itself keeps no task alive
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _abort(self, number: int) -> None:
        generation = self._running.get(number)
        if generation is not None:
            generation.abort()

    async def _follow(self, number: int, generation: Generation) -> None:
        try:
            async for chunk in generation.chunks():
                self._told.put((number, chunk))
        except Exception as error:
            self._told.put((number, error))
        finally:
            del self._running[number]

    async def _watch(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(_STATS_INTERVAL_S)

    async def _look(self) -> None:
        async for load in self._model.loads():
            self.load = load
