"""Adapters in the engine: read beside the steps, kept at a few places, given to sequences.

A sequence with an adapter waits here until its adapter has a place, and holds the place until it
ends. Places that nobody holds keep their adapter until another one needs them; the one that was
used longest ago goes first. Knows no file format and no device.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from tgi_core.contract import AdapterLoaded, AdapterRef, HoldsAdapters, version_of
from tgi_core.errors import BadAdapter
from tgi_core.scheduler.sequence import Sequence

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Held:
    """An adapter at a place."""

    place: int
    users: int = 0
    """Sequences that need it there."""


class AdapterStore:
    """The adapters of one engine. Costs nothing until the first of them."""

    def __init__(self, backend: HoldsAdapters, max_adapters: int) -> None:
        self._backend = backend
        self._free = list(range(max_adapters, 0, -1))
        # least recently used first
        self._held: OrderedDict[AdapterRef, _Held] = OrderedDict()
        self._reading: dict[AdapterRef, Future[object]] = {}
        self._waiting: dict[str, tuple[Sequence, AdapterRef]] = {}
        self._asked: list[AdapterRef] = []
        self._thread: ThreadPoolExecutor | None = None

    @property
    def num_waiting(self) -> int:
        """Sequences that have no place yet."""
        return len(self._waiting)

    @property
    def busy(self) -> bool:
        """Whether anybody waits for an adapter."""
        return bool(self._waiting or self._asked)

    def prepare(self, sequence: Sequence, adapter: AdapterRef) -> None:
        """Lets a sequence wait for its adapter; `prepared` tells when it has it."""
        self._waiting[sequence.request.request_id] = (sequence, adapter)

    def forget(self, request_id: str) -> Sequence | None:
        """Gives a sequence up that waits; None if it does not."""
        sequence, _ = self._waiting.pop(request_id, (None, None))
        return sequence

    def release(self, sequence: Sequence) -> None:
        """A sequence that had its adapter has ended."""
        adapter = sequence.request.adapter
        if adapter is not None and sequence.adapter_place:
            self._held[adapter].users -= 1
            sequence.adapter_place = 0

    def load(self, adapter: AdapterRef) -> None:
        """Reads an adapter before anybody needs it; `loaded` tells what came of it."""
        self._asked.append(adapter)

    def drop(self, adapter: AdapterRef) -> None:
        """Frees an adapter's place; if a sequence needs it, it goes when the place is needed."""
        held = self._held.get(adapter)
        if held is not None and not held.users:
            self._empty(adapter)

    def wait(self, timeout_s: float) -> None:
        """Waits until something has been read, but no longer than this."""
        self._begin_reading()
        if self._reading and timeout_s:
            wait(self._reading.values(), timeout_s, FIRST_COMPLETED)

    def prepared(self) -> Iterator[tuple[Sequence, Exception | None]]:
        """The sequences that have got their adapter by now, or the reason why they never will.

        First come, first served where places are short: a sequence that finds none makes all
        wait that came later, also those whose adapter is there, or it might wait for ever.
        """
        self._begin_reading()
        short = False
        failed: dict[AdapterRef, Exception] = {}
        for request_id, (sequence, adapter) in tuple(self._waiting.items()):
            try:
                held = None if adapter in failed else self._hold(adapter, keep=short)
            except Exception as error:
                failed[adapter] = error
            if adapter in failed:
                del self._waiting[request_id]
                yield sequence, failed[adapter]
            elif held is None:
                short = short or self._is_read(adapter)
            elif not short:
                del self._waiting[request_id]
                held.users += 1
                sequence.adapter_place = held.place
                yield sequence, None
        self._forget_unwanted()

    def loaded(self) -> Iterator[AdapterLoaded]:
        """Answers to `load`."""
        for adapter in tuple(self._asked):
            if adapter not in self._held and not self._is_read(adapter):
                continue
            self._asked.remove(adapter)
            try:
                # if all places are in use it is known to be good, and read again when needed
                self._hold(adapter)
            except BadAdapter as error:
                yield AdapterLoaded(adapter=adapter, fault=str(error))
            except Exception:
                logger.exception("the adapter %s failed", adapter.name)
                yield AdapterLoaded(adapter=adapter, fault="the backend failed on it")
            else:
                yield AdapterLoaded(adapter=adapter)
        self._forget_unwanted()

    def _begin_reading(self) -> None:
        for adapter in (*(adapter for _, adapter in self._waiting.values()), *self._asked):
            if adapter not in self._held and adapter not in self._reading:
                if self._thread is None:
                    self._thread = ThreadPoolExecutor(1, "adapters")
                self._reading[adapter] = self._thread.submit(self._read, adapter)

    def _read(self, adapter: AdapterRef) -> object:
        """Runs in the thread."""
        if version_of(adapter.path) != adapter.version:
            raise BadAdapter("its files have changed since it was loaded: load it again")
        return self._backend.read_adapter(adapter.path)

    def _is_read(self, adapter: AdapterRef) -> bool:
        return adapter in self._reading and self._reading[adapter].done()

    def _hold(self, adapter: AdapterRef, *, keep: bool = False) -> _Held | None:
        """The adapter at its place; None while it is being read, or if no place is to be had.

        Args:
            adapter: which one.
            keep: whether the free places are for somebody else.

        Raises:
            BadAdapter: it could not be read.
        """
        held = self._held.get(adapter)
        if held is not None:
            self._held.move_to_end(adapter)
            return held
        if not self._is_read(adapter):
            return None
        if self._reading[adapter].exception() is not None:
            # another try may find better files
            self._reading.pop(adapter).result()
        if keep:
            return None
        if not self._free:
            idle = next((ref for ref, held in self._held.items() if not held.users), None)
            if idle is None:
                return None
            self._empty(idle)
        read = self._reading.pop(adapter).result()
        self._backend.set_adapter(self._free[-1], read)
        held = self._held[adapter] = _Held(self._free.pop())
        return held

    def _empty(self, adapter: AdapterRef) -> None:
        place = self._held.pop(adapter).place
        self._free.append(place)
        self._backend.set_adapter(place, None)

    def _forget_unwanted(self) -> None:
        """Lets go of what was read for sequences that are gone."""
        wanted = {adapter for _, adapter in self._waiting.values()} | set(self._asked)
        for adapter in tuple(self._reading):
            if adapter not in wanted:
                del self._reading[adapter]
