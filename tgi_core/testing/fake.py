"""A deterministic backend in pure numpy, and the plugin that offers it as `--backend fake`.

Its "model" reads every cell of the cache that a row may see, so a wrong block, a stale cell, a
shifted position or a lost token changes the logits, as it would with real attention.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from sys import modules
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tgi_core.contract import (
    ANY_LENGTH,
    AdapterRows,
    BackendSpec,
    BackendStats,
    BlockCopy,
    BlockPool,
    BlockTables,
    Capabilities,
    Embedding,
    Encoder,
    Fork,
    HostLogits,
    Image,
    LoadRequest,
    LogitsRows,
    Modality,
    ModelFiles,
    PendingLogits,
    Pooling,
    Probe,
    Progress,
    ReadImage,
    SampledTokens,
    SamplingBatch,
    Step,
    TwoWay,
    Verdict,
)
from tgi_core.errors import BadAdapter, BadImage, BadModel, Unsupported, UsageError
from tgi_core.plugin import hookimpl
from tgi_core.sampling.reference import sample

ADAPTER_FILE = "adapter_config.json"
BAD_IMAGE = b"bad"
"""What a file begins with that cannot be decoded,"""
FATAL_IMAGE = b"fatal"
"""and one that cannot be made into vectors. One that begins with a number makes so many, any other
as many as are wanted."""
_NUM_PATTERNS = 4096
"""Distinct rows of logits: enough that two different contexts hardly ever look alike."""


@dataclass(frozen=True, slots=True)
class FakeShape:
    """Size and abilities of a fake device; tests vary them."""

    vocab_size: int = 128
    cache_tokens: int = 65536
    block_tokens: int = 16
    max_sequences: int = 512
    max_rows: int = 256
    max_step_tokens: int = 8192
    max_sequence_tokens: int = 4096
    fork: Fork = Fork.ANY
    truncates: bool = True
    decoder_start: int = -1
    """What its decoder begins with; -1 has no encoder. The encoder's cells are like all others."""
    mixed: bool = True
    chunked: bool = True
    draft_length: int = ANY_LENGTH
    """Tokens of rows with drafts; 0 takes none."""
    logits: LogitsRows = LogitsRows.ALL
    adapters: AdapterRows = AdapterRows.ROW
    images: bool = False
    """Whether prompts may hold images."""
    two_way: TwoWay = TwoWay.NONE
    axes: int = 1
    """Of positions; more than one makes those of images differ from their places."""
    steps_in_flight: int = 1
    generates: bool = True
    embedding_size: int = 0
    """0 does not embed."""
    pooling: Pooling = Pooling.LAST
    fatal_token: int = -1
    """A prompt that begins with it kills the process, as a fault in native code would."""
    loading_s: int = 0
    """How long loading takes, as a large model's does."""


@dataclass(frozen=True, slots=True)
class _Sampled:
    tokens: SampledTokens

    def wait(self) -> SampledTokens:
        return self.tokens


class FakeBackend:
    """Satisfies `StepBackend`, `Embeds`, `HoldsAdapters` and `EncodesImages`; with two steps in
    flight also `SamplesOnDevice`.
    """

    def __init__(self, shape: FakeShape | None = None) -> None:
        self._shape = shape
        self._last_sampled = np.zeros(0, np.int32)
        self._adapters: dict[int, int] = {}
        self.num_encoded = 0
        """Images that were made into vectors, ever."""

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Makes the table of logits; options: any field of FakeShape that is a number."""
        _refuse_unknown(request.options)
        shape = self._shape or _shape_of(request)
        self._shape = shape
        self._fatal_token = shape.fatal_token
        progress("loading weights", 0, 1, "tensors")
        time.sleep(shape.loading_s)
        progress("loading weights", 1, 1, "tensors")
        blocks = shape.cache_tokens // shape.block_tokens
        self.tables = BlockTables(
            BlockPool(blocks), shape.block_tokens, shape.max_sequences, shape.max_sequence_tokens
        )
        # block 0 of the array is never handed out: padding in a block table points there
        self._cells = np.zeros((blocks + 1, shape.block_tokens), np.uint64)
        self._patterns = (
            np.random.default_rng(20261121)
            .standard_normal((_NUM_PATTERNS, shape.vocab_size))
            .astype(np.float32)
            * 4
        )
        return Capabilities(
            device="fake",
            vocab_size=shape.vocab_size,
            max_sequences=shape.max_sequences,
            max_rows=shape.max_rows,
            max_step_tokens=shape.max_step_tokens,
            max_sequence_tokens=shape.max_sequence_tokens,
            max_prefill_tokens=shape.max_step_tokens,
            cache_tokens=blocks * shape.block_tokens,
            cache_grain_tokens=shape.block_tokens,
            fork=shape.fork,
            truncates=bool(shape.truncates),
            encoder=Encoder(start=(shape.decoder_start,)) if shape.decoder_start >= 0 else None,
            mixed=shape.mixed,
            chunked=shape.chunked,
            draft_lengths=(shape.draft_length,) if shape.draft_length and shape.truncates else (),
            logits=shape.logits,
            adapters=shape.adapters,
            modalities=frozenset(Modality) if shape.images else frozenset({Modality.TEXT}),
            two_way=shape.two_way,
            steps_in_flight=shape.steps_in_flight,
            generates=bool(shape.generates),
            embedding=Embedding(size=shape.embedding_size, pooling=shape.pooling)
            if shape.embedding_size
            else None,
            batch_invariant=True,
        )

    def warm_up(self, progress: Progress) -> None:
        """Nothing to warm up."""
        progress("warming up", 1, 1, "shapes")

    def reserve(self, seq: int, length: int) -> bool:
        """Takes blocks from the pool."""
        copies = self.tables.reserve(seq, length)
        if copies is None:
            return False
        self._copy(copies)
        return True

    def fork(self, src: int, dst: int, length: int) -> bool:
        """Shares blocks."""
        self.tables.fork(src, dst, length)
        return True

    def truncate(self, seq: int, length: int) -> None:
        """Gives blocks back."""
        assert self._shape is not None, "load comes first"
        if not self._shape.truncates and length not in (0, self.tables.held(seq)):
            raise Unsupported("a sequence cut in the middle")
        self.tables.truncate(seq, length)

    def release(self, seq: int) -> None:
        """Gives all blocks back."""
        self.tables.release(seq)

    def step(self, step: Step) -> PendingLogits:
        """Writes a cell for each new token, then reads all cells up to each wanted one."""
        _check_encoded(step, self._shape)
        tables, row_of, position = self._write(step)
        return HostLogits(self._logits(tables, row_of[step.out], position[step.out]))

    def embed(self, step: Step) -> NDArray[np.float32]:
        """Pools the first numbers of what would be logits."""
        assert self._shape is not None, "load comes first"
        states = self._logits(*self._write(step))[:, : self._shape.embedding_size]
        begins = step.row_begins()
        match self._shape.pooling:
            case Pooling.FIRST:
                return states[begins[:-1]]
            case Pooling.LAST:
                return states[begins[1:] - 1]
            case Pooling.MEAN:
                return (np.add.reduceat(states, begins[:-1]) / step.n[:, None]).astype(np.float32)

    def _write(self, step: Step) -> tuple[NDArray[np.int32], NDArray[np.intp], NDArray[np.int32]]:
        """Writes the cells of a step; block tables, and each token's row and position."""
        block = self.tables.block_tokens
        tokens = step.tokens
        if tokens.min() < 0:
            named = np.where(tokens < 0, -1 - tokens, 0)
            tokens = np.where(tokens < 0, self._last_sampled[named], tokens)
        position = step.token_positions()
        if (tokens[position == 0] == self._fatal_token).any():
            os.kill(os.getpid(), signal.SIGKILL)
        row_of = np.repeat(np.arange(step.num_rows), step.n)
        tables = self.tables.rows(step.seq) + 1
        cells = _cell(tokens, position)
        for image in step.images:
            vectors = image.encoded[image.skip : image.skip + len(image.at)]
            cells[image.at] = _cell(vectors, position[image.at])
        assert self._shape is not None, "load comes first"
        for axis in range(self._shape.axes if self._shape.axes > 1 else 0):
            stands = position if step.positions is None else step.positions[axis]
            cells = _scramble(cells + stands.astype(np.uint64))
        for begin, end in () if step.two_way is None else step.two_way.tolist():
            with np.errstate(over="ignore"):
                cells[begin:end] = _scramble(cells[begin:end] + cells[begin:end].sum())
        if step.adapter is not None:
            seeds = [self._adapters.get(place, 0) for place in step.adapter.tolist()]
            cells = cells ^ np.array(seeds, np.uint64)[row_of]
        self._cells[tables[row_of, position // block], position % block] = cells
        self.tables.advance(step.seq, step.n)
        return tables, row_of, position

    def _logits(
        self, tables: NDArray[np.int32], row: NDArray[np.intp], position: NDArray[np.int32]
    ) -> NDArray[np.float32]:
        """float32 (L, vocab): each from the sum of the cells 0 .. position of its row."""
        if not len(row):
            return np.zeros((0, self._patterns.shape[1]), np.float32)
        width = int(position.max()) // self.tables.block_tokens + 1
        cells = self._cells[tables[:, :width]].reshape(len(tables), -1)
        with np.errstate(over="ignore"):
            state = np.cumsum(cells, axis=1)[row, position]
            index = (_scramble(state) % np.uint64(_NUM_PATTERNS)).astype(np.intp)
        return self._patterns[index]

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> _Sampled:
        """The reference sampler, remembering the ids for a step that names them."""
        sampled = sample(logits.numpy(), batch)
        self._last_sampled = sampled.ids
        return _Sampled(sampled)

    def read_adapter(self, path: Path) -> int:
        """An adapter is a number, which every cell of its rows is mixed with."""
        try:
            seed = int(json.loads((path / ADAPTER_FILE).read_text())["seed"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadAdapter(f"{ADAPTER_FILE} holds no seed") from error
        return (seed * 0x9E3779B97F4A7C15 + 1) % 2**64

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """Keeps the number."""
        if adapter is None:
            self._adapters.pop(place, None)
        else:
            assert isinstance(adapter, int)  # only `read_adapter` makes them
            self._adapters[place] = adapter

    def read_image(self, image: Image) -> ReadImage:
        """An image is its bytes, and a number of vectors."""
        assert self._shape is not None, "load comes first"
        if not image.data or image.data.startswith(BAD_IMAGE):
            raise BadImage("it is no image that can be decoded")
        num = image.num_placeholders
        positions = None
        if self._shape.axes > 1:
            positions = np.array([np.arange(num) // (axis + 1) for axis in range(self._shape.axes)])
        return ReadImage(
            pixels=(image.data, num),
            positions=None if positions is None else positions.astype(np.int32),
        )

    def encode_image(self, pixels: Any) -> NDArray[np.uint64]:
        """A vector is a number."""
        data, num = pixels
        if data.startswith(FATAL_IMAGE):
            raise RuntimeError("the vision tower fell over")
        makes = re.match(rb"\d+", data)
        if makes is not None and int(makes[0]) != num:
            raise BadImage(f"it makes {int(makes[0])} vectors, and {num} placeholders stand for it")
        self.num_encoded += 1
        seed = int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
        with np.errstate(over="ignore"):
            return _scramble(np.arange(num, dtype=np.uint64) + np.uint64(seed))

    def stats(self) -> BackendStats:
        """Blocks in use."""
        return BackendStats(cache_tokens_used=self.tables.used_blocks * self.tables.block_tokens)

    def close(self) -> None:
        """Nothing to free."""

    def _copy(self, copies: list[BlockCopy]) -> None:
        for copy in copies:
            self._cells[copy.dst + 1] = self._cells[copy.src + 1]


def _check_encoded(step: Step, shape: FakeShape | None) -> None:
    """What the contract says of prompts that go to an encoder."""
    if shape is None or shape.decoder_start < 0:
        return
    if step.encoded is None:
        raise Unsupported("a prompt for the decoder")
    whole = (step.past == 0) | (step.past >= step.encoded)
    if not (whole & (step.past + step.n > step.encoded)).all():
        raise Unsupported("a part of a prompt")
    row_of = np.repeat(np.arange(step.num_rows), step.n)[step.out]
    if (step.token_positions()[step.out] < step.encoded[row_of]).any():
        raise Unsupported("logits of an encoder")


def _cell(tokens: NDArray[np.int32], position: NDArray[np.int32]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        return _scramble(
            tokens.astype(np.uint64) * np.uint64(1_000_003) + position.astype(np.uint64)
        )


def _scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
        return x ^ (x >> np.uint64(33))


def _shape_of(request: LoadRequest) -> FakeShape:
    """From config.json's vocabulary, the request's sizes and `--backend-option` numbers."""
    sizes: dict[str, Any] = {}
    config = request.model.path / "config.json"
    if config.is_file():
        try:
            sizes["vocab_size"] = int(json.loads(config.read_text())["vocab_size"])
        except (ValueError, KeyError) as error:
            raise BadModel(f"{config} holds no vocab_size ({error}).") from error
    for name, value in {
        "max_rows": request.max_rows,
        "max_sequence_tokens": request.max_sequence_tokens,
        "max_step_tokens": request.max_step_tokens,
        "cache_tokens": request.cache_tokens,
        **request.options,
    }.items():
        if value is not None:
            sizes[name] = int(value)
    return FakeShape(**sizes)


def _refuse_unknown(options: Mapping[str, str]) -> None:
    for name in options:
        if not isinstance(getattr(FakeShape(), name, None), int):
            raise UsageError(f"the fake backend has no option {name!r}.")


def _accepts(files: ModelFiles) -> Verdict:
    return Verdict(False, "the fake backend is for tests; ask for it with --backend fake")


@hookimpl
def tgi_backend() -> BackendSpec:
    """The fake backend, never chosen by itself."""
    return BackendSpec(
        name="fake",
        contract=(1, 0),
        probe=lambda: Probe(available=True, devices=("fake",)),
        accepts=_accepts,
        create=FakeBackend,
        description="deterministic arithmetic instead of a model, for tests",
    )


plugin = modules[__name__]
"""What a test registers."""
