"""Guided sequences in the engine: grammars are compiled beside the steps, masks within them.

A request with a grammar waits here until its matcher is ready. From then on the matcher belongs to
the sequence: it makes a mask for each token to be sampled and goes on by the token that was.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import (
    CompiledGrammar,
    Grammar,
    GrammarCompiler,
    GuidanceEngine,
    Matcher,
    SamplingBatch,
    Vocabulary,
)
from tgi_core.engine.build import Output
from tgi_core.errors import GenerationError, TgiError, UsageError
from tgi_core.plugin.manager import Plugins
from tgi_core.scheduler.plan import PlannedRow
from tgi_core.scheduler.sequence import Sequence

logger = logging.getLogger(__name__)

_Words = NDArray[np.int32]
_Ready = tuple[Matcher, Callable[[], Matcher]]
"""A matcher that has taken in what is known, and what makes new ones."""

_MAX_KEPT = 32
"""Compiled grammars that are kept; each may take some ten megabytes, though few do."""
_MAX_KEPT_BYTES = 4 << 20
"""Length of all their texts. A compiled grammar takes about a hundred times as much."""


def choose_guidance_engine(plugins: Plugins, name: str) -> GuidanceEngine:
    """The guidance engine of that name.

    Raises:
        UsageError: there is none; lists those that there are.
    """
    engines = plugins.guidance_engines()
    if name not in engines:
        raise UsageError(
            f"there is no guidance engine {name!r}; there are: "
            f"{', '.join(sorted(engines)) or 'none'}."
        )
    return engines[name]


class Guidance:
    """The grammars of one engine. Costs nothing until the first of them."""

    def __init__(self, engine: GuidanceEngine) -> None:
        self._engine = engine
        self._vocabulary: Vocabulary = ()
        self._compiler: GrammarCompiler | None = None
        self._compiled: OrderedDict[Grammar, CompiledGrammar] = OrderedDict()
        self._thread: ThreadPoolExecutor | None = None
        self._preparing: dict[str, tuple[Sequence, Future[_Ready]]] = {}

    def use(self, vocabulary: Vocabulary, vocab_size: int) -> None:
        """Takes the bytes of the tokens; `vocab_size` is the model's, with or without padding."""
        padding = [b""] * (vocab_size - len(vocabulary))
        self._vocabulary = [*vocabulary[:vocab_size], *padding]

    @property
    def num_preparing(self) -> int:
        """Sequences that wait for their matcher."""
        return len(self._preparing)

    def prepare(self, sequence: Sequence, grammar: Grammar) -> None:
        """Begins to compile a sequence's grammar; `prepared` tells when that is done."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "grammars")
        future = self._thread.submit(self._matcher, grammar, sequence.request.resumed)
        self._preparing[sequence.request.request_id] = (sequence, future)

    def forget(self, request_id: str) -> bool:
        """Gives a sequence up that is being prepared; False if it is not."""
        return self._preparing.pop(request_id, None) is not None

    def prepared(self, timeout_s: float) -> Iterator[tuple[Sequence, Exception | None]]:
        """The sequences that have got their matcher by now, or the reason why they never will.

        Waits for the first one, but no longer than `timeout_s`.
        """
        if timeout_s and self._preparing:
            wait([f for _, f in self._preparing.values()], timeout_s, FIRST_COMPLETED)
        for request_id, (sequence, future) in tuple(self._preparing.items()):
            if future.done():
                del self._preparing[request_id]
                try:
                    sequence.matcher, sequence.new_matcher = future.result()
                except Exception as error:
                    yield sequence, error
                else:
                    yield sequence, None

    def _matcher(self, grammar: Grammar, tokens: tuple[int, ...]) -> _Ready:
        """Runs in the thread."""
        compiled = self._compiled.get(grammar)
        if compiled is None:
            if self._compiler is None:
                if not self._vocabulary:
                    raise GenerationError("the engine does not know the vocabulary")
                self._compiler = self._engine.compiler(self._vocabulary)
            compiled = self._compiled[grammar] = self._compiler.compile(grammar)
            self._evict()
        self._compiled.move_to_end(grammar)
        matcher = compiled.matcher()
        matcher.accept(tokens)
        return matcher, compiled.matcher

    def _evict(self) -> None:
        """Lets the grammars go that were not used for longest."""
        num_bytes = sum(len(grammar.text) for grammar in self._compiled)
        while len(self._compiled) > _MAX_KEPT or (
            num_bytes > _MAX_KEPT_BYTES and len(self._compiled) > 1
        ):
            grammar, _ = self._compiled.popitem(last=False)
            num_bytes -= len(grammar.text)


def mask(
    batch: SamplingBatch, outputs: list[Output], vocab_size: int
) -> tuple[SamplingBatch, list[tuple[Sequence, str]]]:
    """Adds the masks of guided sequences, best while the device computes the logits.

    Returns:
        The batch, and the sequences that cannot go on, each with the reason.
    """
    rows = [
        i
        for i, o in enumerate(outputs)
        if not o.row.plain and o.scored is None and o.row.sequence.matcher is not None
    ]
    if not rows:
        return batch, []
    # what is sampled where no mask gets filled is for nobody
    masks = np.full((len(rows), -(-vocab_size // 32)), -1, np.int32)
    failed = []
    for place, row in enumerate(rows):
        if not outputs[row].ahead:
            planned = outputs[row].row
            fault = _fill_row(planned, masks[place : place + len(planned.drafts) + 1])
            if fault is not None:
                failed.append((planned.sequence, fault))
    return replace(batch, mask_rows=np.array(rows, np.int32), mask=masks), failed


def _fill_row(row: PlannedRow, masks: _Words) -> str | None:
    """The masks of a row: as long as the grammar allows its drafts, one after each of them.

    Returns:
        Why the sequence cannot go on.
    """
    sequence = row.sequence
    fault = _fill(sequence, masks[0])
    if fault is not None:
        masks[0].fill(-1)
        return fault
    accepted = 0
    for draft, words, after in zip(row.drafts, masks, masks[1:], strict=False):
        allowed = words.view(np.uint32)[draft // 32] >> np.uint32(draft % 32) & 1
        if not allowed:
            break
        if advance(sequence, draft) is not None:
            return _renew(sequence)  # if this draft is right, it fails when it is taken in
        accepted += 1
        if _fill(sequence, after) is not None:
            # nothing is sampled there: if the draft is right, the next step fails as it should
            after.fill(0)
            break
    return _roll_back(sequence, accepted) if accepted else None


def _roll_back(sequence: Sequence, num_tokens: int) -> str | None:
    """Takes drafts back; returns why that failed."""
    assert sequence.matcher is not None  # it is guided
    try:
        sequence.matcher.roll_back(num_tokens)
    except Exception:
        return _renew(sequence)
    return None


def _renew(sequence: Sequence) -> str | None:
    """Makes another matcher, where drafts have brought one to its end; returns why that failed."""
    assert sequence.new_matcher is not None  # it is guided
    try:
        sequence.matcher = sequence.new_matcher()
        sequence.matcher.accept(sequence.tokens[sequence.num_prompt :])
    except Exception as error:
        return _reason(sequence, error)
    return None


def _fill(sequence: Sequence, words: _Words) -> str | None:
    """What may come next, the end of the sequence included; returns why nothing may."""
    assert sequence.matcher is not None  # it is guided
    try:
        may_end = sequence.matcher.fill(words)
    except Exception as error:
        return _reason(sequence, error)
    stop = sequence.request.stop
    # where the end is ignored it comes only when nothing else can
    if may_end and (not stop.ignore_eos or not words.any()):
        for token in stop.eos_token_ids:
            if token // 32 < len(words):
                words.view(np.uint32)[token // 32] |= np.uint32(1 << token % 32)
    return None


def advance(sequence: Sequence, token: int) -> str | None:
    """Tells a sequence's matcher of a token that does not end it; returns why that failed."""
    if sequence.matcher is None:
        return None
    try:
        sequence.matcher.accept((token,))
    except Exception as error:
        return _reason(sequence, error)
    return None


def _reason(sequence: Sequence, error: Exception) -> str:
    if isinstance(error, TgiError):
        return f"the grammar: {error}"
    logger.error("the matcher of request %s failed", sequence.request.request_id, exc_info=error)
    return "the guidance engine failed"
