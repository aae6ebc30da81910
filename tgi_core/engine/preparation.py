"""What sequences need before they can be scheduled: a matcher for their grammar, then their images
read, then an adapter.

All are made beside the steps. Knows no step and no row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tgi_core.contract import AdapterLoaded, AdapterRef, Vocabulary
from tgi_core.engine.adapters import AdapterStore
from tgi_core.engine.guidance import Guidance
from tgi_core.engine.images import ImageStore
from tgi_core.errors import BadAdapter
from tgi_core.scheduler.sequence import Sequence


class Preparation:
    """The sequences of one engine that are not ready yet."""

    def __init__(
        self,
        guidance: Guidance | None,
        adapters: AdapterStore | None,
        images: ImageStore | None,
        ready: Callable[[Sequence], None],
    ) -> None:
        """`ready` takes each sequence that lacks nothing any more."""
        self._guidance = guidance
        self._adapters = adapters
        self._images = images
        self._ready = ready
        self._answers: list[AdapterLoaded] = []

    @property
    def num_waiting(self) -> int:
        """Sequences that are not ready."""
        preparing = self._guidance.num_preparing if self._guidance is not None else 0
        stores = (self._images, self._adapters)
        return preparing + sum(store.num_waiting for store in stores if store is not None)

    @property
    def busy(self) -> bool:
        """Whether anybody waits, sequences or those who want an adapter to be loaded."""
        reading = self._adapters is not None and self._adapters.busy
        return bool(self.num_waiting or reading or self._answers)

    def add(self, sequence: Sequence) -> None:
        """Begins; a sequence that needs nothing is ready at once."""
        grammar = sequence.request.grammar
        if grammar is not None and self._guidance is not None:
            self._guidance.prepare(sequence, grammar)
        else:
            self._read_images(sequence)

    def forget(self, request_id: str) -> bool:
        """Gives a sequence up; False if it was ready, or is not known."""
        if self._guidance is not None and self._guidance.forget(request_id):
            return True
        if self._images is not None and self._images.forget(request_id):
            return True
        adapters = self._adapters
        sequence = adapters.forget(request_id) if adapters is not None else None
        if sequence is not None and self._images is not None:
            self._images.release(sequence)
        return sequence is not None

    def ended(self, sequence: Sequence) -> None:
        """What a sequence that was ready held is free again."""
        for store in (self._images, self._adapters):
            if store is not None:
                store.release(sequence)

    def advance(self, timeout_s: float) -> Iterator[tuple[Sequence, Exception]]:
        """Hands on what is ready by now.

        Args:
            timeout_s: longest wait for the first grammar, the first image and the first adapter.

        Returns:
            The sequences that never will be ready, and why.
        """
        if self._guidance is not None and self._guidance.num_preparing:
            for sequence, error in self._guidance.prepared(timeout_s):
                if error is None:
                    self._read_images(sequence)
                else:
                    yield sequence, error
        if self._images is not None and self._images.num_waiting:
            self._images.wait(timeout_s)
            for sequence, error in self._images.prepared():
                if error is None:
                    self._adapt(sequence)
                else:
                    yield sequence, error
        if self._adapters is not None and self._adapters.busy:
            self._adapters.wait(timeout_s)
            for sequence, error in self._adapters.prepared():
                if error is None:
                    self._ready(sequence)
                else:
                    if self._images is not None:
                        self._images.release(sequence)
                    yield sequence, _about_adapter(sequence, error)
            self._answers += self._adapters.loaded()

    def use_vocabulary(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        """The bytes of all tokens; must come before the first grammar."""
        if self._guidance is not None:
            self._guidance.use(vocabulary, vocab_size)

    def load_adapter(self, adapter: AdapterRef) -> None:
        """Reads and checks an adapter; one of `answers` tells what came of it."""
        if self._adapters is None:
            fault = "this backend holds no adapters"
            self._answers.append(AdapterLoaded(adapter=adapter, fault=fault))
        else:
            self._adapters.load(adapter)

    def drop_adapter(self, adapter: AdapterRef) -> None:
        """Nobody will ask for an adapter any more; sequences that have it go on."""
        if self._adapters is not None:
            self._adapters.drop(adapter)

    def answers(self) -> list[AdapterLoaded]:
        """What came of wishes to load adapters; each is given once."""
        answers, self._answers = self._answers, []
        return answers

    def _read_images(self, sequence: Sequence) -> None:
        if sequence.request.images and self._images is not None:
            self._images.prepare(sequence)
        else:
            self._adapt(sequence)

    def _adapt(self, sequence: Sequence) -> None:
        adapter = sequence.request.adapter
        if adapter is not None and self._adapters is not None:
            self._adapters.prepare(sequence, adapter)
        else:
            self._ready(sequence)


def _about_adapter(sequence: Sequence, error: Exception) -> Exception:
    """The error with the adapter's name, if it says what of the adapter is wrong."""
    adapter = sequence.request.adapter
    if adapter is None or not isinstance(error, BadAdapter):
        return error
    return BadAdapter(f"the adapter {adapter.name!r} cannot be used: {error}")
