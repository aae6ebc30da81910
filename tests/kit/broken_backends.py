"""Backends that each break one promise, as a real device or a hasty author may, under the kit.

Only test_kit_catches_faults.py collects this file. It has more than 400 lines, because the faults
share one base and one run of the kit.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tgi_core.contract import (
    AdapterRows,
    BackendSpec,
    BlockPool,
    BlockTables,
    HostLogits,
    LoadRequest,
    ModelFiles,
    ModelFormat,
    Pooling,
    Probe,
    Verdict,
)
from tgi_core.errors import BadAdapter, BadImage, Unsupported
from tgi_core.sampling import reference
from tgi_core.testing.conformance import BackendConformance
from tgi_core.testing.conformance.runner import Runner
from tgi_core.testing.fake import FakeBackend, FakeShape
from tgi_core.testing.models import write_fake_adapter

SHAPE = FakeShape(
    vocab_size=96,
    cache_tokens=512,
    max_sequences=8,
    max_rows=5,
    max_step_tokens=80,
    max_sequence_tokens=120,
    steps_in_flight=2,
    embedding_size=8,
    pooling=Pooling.MEAN,
    images=True,
)
_REQUEST = LoadRequest(
    model=ModelFiles(reference="none", path=Path("none"), format=ModelFormat.OTHER)
)
BACKENDS: dict[str, type[FaultyBackend]] = {}


class FaultyBackend(FakeBackend):
    """Base of the faults; by itself without one."""

    def __init_subclass__(cls) -> None:
        BACKENDS[cls.__name__] = cls

    def __init__(self) -> None:
        super().__init__(SHAPE)

    def load(self, request, progress):
        capabilities = super().load(request, progress)
        self.tables = self.make_tables(SHAPE.cache_tokens // SHAPE.block_tokens)
        return capabilities

    def make_tables(self, num_blocks):
        return _tables(BlockTables, BlockPool(num_blocks))


def _tables(kind, pool):
    return kind(pool, SHAPE.block_tokens, SHAPE.max_sequences, SHAPE.max_sequence_tokens)


# What the model sees


class DropsTheLastToken(FaultyBackend):
    def _logits(self, tables, row, position):
        return super()._logits(tables, row, np.maximum(position - 1, 0))


class IgnoresTheOrderOfTokens(FaultyBackend):
    def step(self, step):
        row_of = np.repeat(np.arange(step.num_rows), step.n)
        order = np.lexsort((step.tokens, row_of))
        return super().step(replace(step, tokens=step.tokens[order]))


class MistakesEveryToken(FaultyBackend):
    """Consistently, so that only another implementation can tell."""

    def step(self, step):
        return super().step(replace(step, tokens=np.where(step.tokens == 7, 8, step.tokens)))


class AttendsToStaleCells(FaultyBackend):
    def _logits(self, tables, row, position):
        block = SHAPE.block_tokens
        return super()._logits(tables, row, position // block * block + block - 1)


class ForgetsToRestartPositions(FaultyBackend):
    """Positions are counted on the device, and a release leaves the counter one too high."""

    def __init__(self):
        super().__init__()
        self.late = np.zeros(SHAPE.max_sequences, np.int32)

    def reserve(self, seq, length):
        return super().reserve(seq, length + int(self.late[seq]))

    def release(self, seq):
        self.late[seq] = self.tables.held(seq) > 0
        super().release(seq)

    def step(self, step):
        return super().step(replace(step, past=step.past + self.late[step.seq]))


class BeginsChunksOneTooEarly(FaultyBackend):
    def step(self, step):
        early = (step.past > 0) & (step.n > 1)
        return super().step(replace(step, past=step.past - early.astype(np.int32)))


class TruncatesWholeBlocksOnly(FaultyBackend):
    """Positions are counted on the device, and a length inside a block is left as it is."""

    def truncate(self, seq, length):
        if length % SHAPE.block_tokens == 0:
            super().truncate(seq, length)

    def step(self, step):
        held = [self.tables.held(seq) for seq in step.seq.tolist()]
        return super().step(replace(step, past=np.array(held, np.int32)))


class CropsLongPrompts(FaultyBackend):
    """Claims 80 tokens a row, but its graph was compiled for 72."""

    longest = 72

    def step(self, step):
        tokens = step.tokens.copy()
        for begin, n in zip(step.row_begins(), step.n, strict=False):
            tokens[begin : begin + max(0, n - self.longest)] = 0
        return super().step(replace(step, tokens=tokens))


class CropsPromptsOverTheLimit(CropsLongPrompts):
    longest = SHAPE.max_step_tokens


# Who sees whom


class SwapsRows(FaultyBackend):
    def _logits(self, tables, row, position):
        return super()._logits(tables, row, position)[::-1].copy()


class ReturnsTheFirstRowsInsteadOfTheWanted(FaultyBackend):
    def step(self, step):
        ends = step.row_begins()[1:] - 1
        if set(step.out) <= set(ends):
            step = replace(step, out=ends[: len(step.out)])
        return super().step(step)


class ReturnsTheLastTokensInsteadOfTheWanted(FaultyBackend):
    def step(self, step):
        return super().step(replace(step, out=step.out[::-1]))


class UsesTheFirstBlockTableForAllRows(FaultyBackend):
    class OneTable(BlockTables):
        def rows(self, seq):
            return super().rows(np.full_like(seq, seq[0]))

    def make_tables(self, num_blocks):
        return _tables(self.OneTable, BlockPool(num_blocks))


class DecodesWithoutProtectingIdleSlots(FaultyBackend):
    """The compiled graph writes for every slot, at the position of the rows that decode."""

    def step(self, step):
        for seq in set(range(SHAPE.max_sequences)) - set(step.seq.tolist()):
            for position in step.past[step.n == 1].tolist():
                if position < self.tables.held(seq):
                    block = self.tables.rows(np.array([seq]))[0, position // SHAPE.block_tokens]
                    self._cells[block + 1, position % SHAPE.block_tokens] = 0
        return super().step(step)


class KeepsStateBetweenSteps(FaultyBackend):
    left_over = np.float32(0)

    def _logits(self, tables, row, position):
        logits = super()._logits(tables, row, position) + self.left_over
        if len(logits):
            self.left_over = np.float32(0.1) * logits.max()
        return logits


class ReturnsItsOwnArrays(FaultyBackend):
    """Logits are kept for the next time, and the caller gets the array that is kept."""

    def __init__(self):
        super().__init__()
        self.known = {}

    def _logits(self, tables, row, position):
        logits = super()._logits(tables, row, position)
        return self.known.setdefault(logits.tobytes(), logits)


class ReadsLogitsTooLate(FaultyBackend):
    """One buffer for all logits, which a release clears as well."""

    buffer = np.zeros((0, 0), np.float32)

    def _logits(self, tables, row, position):
        self.buffer = super()._logits(tables, row, position)
        return self.buffer

    def release(self, seq):
        self.buffer[:] = 0
        super().release(seq)


# Room and forks


class WritesThroughSharedPrefixes(FaultyBackend):
    class CarelessPool(BlockPool):
        def is_shared(self, block):
            return False

    def make_tables(self, num_blocks):
        return _tables(BlockTables, self.CarelessPool(num_blocks))


class ForgetsToCopySharedBlocks(FaultyBackend):
    def _copy(self, copies):
        pass


class TakesRoomThatItRefuses(FaultyBackend):
    def reserve(self, seq, length):
        if super().reserve(seq, length):
            return True
        room = self.tables.num_blocks(seq) * SHAPE.block_tokens
        while super().reserve(seq, room + SHAPE.block_tokens):
            room += SHAPE.block_tokens
        return False


class LeaksABlockNowAndThen(FaultyBackend):
    def release(self, seq):
        keep = self.tables.num_blocks(seq) > 4
        if keep:
            block = int(self.tables.rows(np.array([seq]))[0, 3])
            self.tables._pool.share(block)
        super().release(seq)


class TruncateKeepsTheRoom(FaultyBackend):
    def truncate(self, seq, length):
        if length == 0:
            super().truncate(seq, length)
        else:
            self.tables._held[seq] = length


# False claims


class RoundsForksDown(FaultyBackend):
    def fork(self, src, dst, length):
        return super().fork(src, dst, length // SHAPE.block_tokens * SHAPE.block_tokens)


class RefusesForks(FaultyBackend):
    def fork(self, src, dst, length):
        return False


class CannotGoOnWithAChunk(FaultyBackend):
    def step(self, step):
        # a later chunk sees itself only
        for seq, past, n in zip(step.seq, step.past, step.n, strict=True):
            if past > 0 and n > 1:
                table = self.tables.rows(np.array([seq]))[0]
                for position in range(past):
                    block = table[position // SHAPE.block_tokens] + 1
                    self._cells[block, position % SHAPE.block_tokens] = 0
        return super().step(step)


class CannotMix(FaultyBackend):
    def step(self, step):
        if (step.n == 1).any() and (step.n > 1).any():
            raise Unsupported("mixed")
        return super().step(step)


class DropsRowsBeyondTheFourth(FaultyBackend):
    def step(self, step):
        row_of = np.repeat(np.arange(step.num_rows), step.n)
        logits = super().step(step).numpy()
        return HostLogits(np.where(row_of[step.out][:, None] < 4, logits, np.float32(0)))


class ClaimsMoreCacheThanItHas(FaultyBackend):
    def make_tables(self, num_blocks):
        return super().make_tables(num_blocks - 1)


class CannotVerifyDrafts(FaultyBackend):
    def step(self, step):
        # all drafts of a row get the logits of its last one
        ends = np.repeat(step.row_begins()[1:] - 1, step.n)
        drafts = np.repeat((step.past > 0) & (step.n > 1), step.n)
        logits = super().step(replace(step, out=np.where(drafts, ends, np.arange(len(ends)))))
        return HostLogits(logits.numpy()[step.out])


class VerifiesDraftsOfOneLength(FaultyBackend):
    def step(self, step):
        # rows are taken to be as long as the first one
        lengths = step.n[(step.past > 0) & (step.n > 1)]
        logits = super().step(step)
        return HostLogits(np.roll(logits.numpy(), len(set(lengths.tolist())) > 1, axis=0))


class HearsNoOptions(FaultyBackend):
    def load(self, request, progress):
        return super().load(replace(request, options={}), progress)


# Adapters


class IgnoresAdapters(FaultyBackend):
    def step(self, step):
        return super().step(replace(step, adapter=None))


class GivesAllRowsTheFirstAdapter(FaultyBackend):
    def step(self, step):
        if step.adapter is not None:
            first = np.full_like(step.adapter, step.adapter[step.adapter > 0][0])
            step = replace(step, adapter=first)
        return super().step(step)


class GivesDecodingRowsNoAdapter(FaultyBackend):
    """The graph for single tokens was compiled without."""

    def step(self, step):
        if (step.n == 1).all():
            step = replace(step, adapter=None)
        return super().step(step)


class KeepsTheOldAdapterAtAPlace(FaultyBackend):
    def set_adapter(self, place, adapter):
        old = self._adapters.get(place)
        super().set_adapter(place, old if old is not None and adapter is not None else adapter)


class AdaptsTheBaseModelToo(FaultyBackend):
    """An adapter is merged into the weights when it comes."""

    def step(self, step):
        if 1 in self._adapters and step.adapter is None:
            step = replace(step, adapter=np.ones(step.num_rows, np.int32))
        return super().step(step)


class TakesAnythingForAnAdapter(FaultyBackend):
    def read_adapter(self, path):
        try:
            return super().read_adapter(path)
        except BadAdapter:
            return 1


class ClaimsNoAdapters(FaultyBackend):
    """But has them."""

    def load(self, request, progress):
        return replace(super().load(request, progress), adapters=AdapterRows.NONE)


# Images


class IgnoresImages(FaultyBackend):
    def step(self, step):
        return super().step(replace(step, images=()))


class BeginsEachPartOfAnImageAnew(FaultyBackend):
    def step(self, step):
        images = tuple(replace(image, skip=0) for image in step.images)
        return super().step(replace(step, images=images))


class ShowsAllRowsTheFirstImage(FaultyBackend):
    def step(self, step):
        images = tuple(
            replace(image, encoded=np.resize(step.images[0].encoded, len(image.encoded)))
            for image in step.images
        )
        return super().step(replace(step, images=images))


class TakesAnythingForAnImage(FaultyBackend):
    def encode_image(self, pixels):
        try:
            return super().encode_image(pixels)
        except BadImage:
            return np.zeros(pixels[1], np.uint64)


# Sampling on the device


class SamplesMaskedTokens(FaultyBackend):
    def sample(self, logits, batch):
        none = {"mask_rows": batch.mask_rows[:0], "mask": batch.mask[:0]}
        return super().sample(logits, replace(batch, **none))


class SamplesWithoutPenalties(FaultyBackend):
    def sample(self, logits, batch):
        return super().sample(logits, replace(batch, history_begins=batch.history_begins * 0))


class DrawsInTheOrderOfProbability(FaultyBackend):
    """Walks through the tokens from the most probable one on, not in the order of their ids."""

    def sample(self, logits, batch):
        if len(batch.mask_rows) or len(batch.history_tokens) or len(batch.bias_tokens):
            return super().sample(logits, batch)
        rows = logits.numpy()
        order = np.argsort(-rows, axis=1, kind="stable")
        drawn = super().sample(HostLogits(np.take_along_axis(rows, order, axis=1)), batch)
        ids = drawn.tokens.ids[:, None]
        drawn.tokens.ids[:] = np.take_along_axis(order, ids, axis=1)[:, 0]
        return drawn


class TakesTheLogprobBeforePenalties(FaultyBackend):
    def sample(self, logits, batch):
        plain = reference.sample(
            logits.numpy().copy(), replace(batch, history_begins=batch.history_begins * 0)
        )
        sampled = super().sample(logits, batch)
        sampled.tokens.logprobs[:] = plain.logprobs
        return sampled


class NamesTokensByRow(FaultyBackend):
    """Takes -1 - i for "what row i of this step sampled" and not for output i of the last one."""

    def step(self, step):
        row_of = np.repeat(np.arange(step.num_rows, dtype=np.int32), step.n)
        tokens = np.where(step.tokens < 0, -1 - row_of, step.tokens)
        return super().step(replace(step, tokens=tokens))


# How it embeds


class PoolsOverTheWholeStep(FaultyBackend):
    """A mean that was written for one text at a time."""

    def embed(self, step):
        vectors = super().embed(step)
        return np.repeat(vectors.mean(0, keepdims=True), step.num_rows, 0)


class PoolsPaddingToo(FaultyBackend):
    """Divides by the longest row, as a batch with padding and no mask does."""

    def embed(self, step):
        return super().embed(step) * (step.n / step.n.max())[:, None].astype(np.float32)


class PoolsTheFirstTokenInstead(FaultyBackend):
    def embed(self, step):
        self._shape = replace(SHAPE, pooling=Pooling.FIRST)
        return super().embed(step)


class PoolsAPartAsIfItWereWhole(FaultyBackend):
    """Divides the sum of a part by all tokens so far."""

    def embed(self, step):
        return super().embed(step) * (step.n / (step.past + step.n))[:, None].astype(np.float32)


class EmbedsInTheFirstSlot(FaultyBackend):
    """Computes texts where a sequence that generates may lie."""

    def embed(self, step):
        vectors = super().embed(step)
        self._cells[1:3] = 7
        return vectors


class EmbedsInDoublePrecision(FaultyBackend):
    def embed(self, step):
        return super().embed(step).astype(np.float64)


class TestBrokenBackend(BackendConformance):
    """The kit on each fault; most of it passes."""

    def reference_logits(self, tokens):
        device = FakeBackend(SHAPE)
        capabilities = device.load(_REQUEST, lambda *progress: None)
        return Runner(device, capabilities).continuations((), tokens)

    @pytest.fixture(scope="class", params=["FaultyBackend", *BACKENDS])
    @classmethod
    def spec(cls, request: pytest.FixtureRequest) -> BackendSpec:
        return BackendSpec(
            name="faulty",
            contract=(1, 0),
            probe=lambda: Probe(available=True),
            accepts=lambda files: Verdict(True),
            create=BACKENDS.get(request.param, FaultyBackend),
        )

    @pytest.fixture(scope="class")
    @classmethod
    def load_request(cls) -> LoadRequest:
        return _REQUEST

    @pytest.fixture(scope="class")
    @classmethod
    def adapters(cls, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
        folder = tmp_path_factory.mktemp("adapters")
        return [write_fake_adapter(folder / str(seed), seed) for seed in (1, 2)]

    @pytest.fixture(scope="class")
    @classmethod
    def images(cls) -> list[tuple[bytes, int]]:
        return [(b"9 vectors of a cat", 9), (b"6 vectors of a dog", 6)]
