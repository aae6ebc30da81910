"""A backend of a stranger: sums of integers in blocks, written when the contract was 1.0.

It uses as much of the contract as one device can: blocks that are shared, sampling on the device
with steps in flight, adapters, images, vectors, a plan and a conversion. See the README before you
change a line.
"""

from __future__ import annotations

import json
import shutil
from hashlib import sha256
from pathlib import Path

import numpy as np

from tgi_core.contract import (
    AdapterRows,
    BackendKind,
    BackendSpec,
    BackendStats,
    BlockPool,
    BlockTables,
    Capabilities,
    DType,
    Embedding,
    HostLogits,
    Image,
    LoadRequest,
    MemoryPlan,
    Modality,
    ModelFiles,
    ModelFormat,
    PendingLogits,
    Pooling,
    Probe,
    Progress,
    ReadImage,
    SampledTokens,
    SamplingBatch,
    Step,
    Verdict,
    available_bytes,
    choose_sizes,
    plan_sizes,
    warm_up_with,
)
from tgi_core.errors import BadAdapter, BadImage, BadModel, UnsupportedModel, UsageError
from tgi_core.plugin import hookimpl
from tgi_core.sampling.reference import sample

WIDTH, BLOCK, PRIME = 16, 16, 65_521
CELL_BYTES = WIDTH * 8


class Sampled:
    """Tokens that were chosen when they were asked for."""

    def __init__(self, tokens: SampledTokens) -> None:
        self._tokens = tokens

    def wait(self) -> SampledTokens:
        return self._tokens


class Backend:
    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        scale = _scale(request)
        vocab, longest = _config(request.model)
        sizes = _sizes(request, longest)
        rng = np.random.default_rng(10)
        self._tokens = rng.integers(0, PRIME, (vocab, WIDTH))
        self._head = rng.standard_normal((WIDTH, vocab), np.float32) * scale
        self._adapters = np.zeros((1 + (request.max_adapters or 8), WIDTH), np.int64)
        self._tables = BlockTables(
            BlockPool(sizes.num_blocks), BLOCK, sizes.max_sequences, sizes.max_sequence_tokens
        )
        self._cells = np.zeros((sizes.num_blocks + 1, BLOCK, WIDTH), np.int64)
        self._chosen = np.zeros(0, np.int32)
        progress("loading weights", 2, 2, "tensors")
        flat = sizes.capabilities("integers", vocab, BLOCK)
        self._capabilities = Capabilities(
            device=flat.device,
            vocab_size=vocab,
            max_sequences=flat.max_sequences,
            max_rows=flat.max_rows,
            max_step_tokens=flat.max_step_tokens,
            max_sequence_tokens=flat.max_sequence_tokens,
            max_prefill_tokens=flat.max_prefill_tokens,
            cache_tokens=flat.cache_tokens,
            cache_grain_tokens=BLOCK,
            parked_tokens=None,
            fork=flat.fork,
            mixed=True,
            chunked=True,
            draft_lengths=flat.draft_lengths,
            logits=flat.logits,
            adapters=AdapterRows.ROW,
            modalities=frozenset({Modality.TEXT, Modality.IMAGE}),
            embedding=Embedding(size=WIDTH, pooling=Pooling.LAST),
            row_buckets=(1, 2),
            steps_in_flight=2,
        )
        return self._capabilities

    def warm_up(self, progress: Progress) -> None:
        warm_up_with(self, self._capabilities, (8, 1), progress)

    def reserve(self, seq: int, length: int) -> bool:
        copies = self._tables.reserve(seq, length)
        for copy in copies or ():
            self._cells[copy.dst] = self._cells[copy.src]
        return copies is not None

    def fork(self, src: int, dst: int, length: int) -> bool:
        self._tables.fork(src, dst, length)
        return True

    def truncate(self, seq: int, length: int) -> None:
        self._tables.truncate(seq, length)

    def release(self, seq: int) -> None:
        self._tables.release(seq)

    def step(self, step: Step) -> PendingLogits:
        states = self._states(step, step.out)
        return HostLogits(states @ self._head)

    def embed(self, step: Step) -> np.ndarray:
        return self._states(step, step.row_begins()[1:] - 1)

    def _states(self, step: Step, wanted: np.ndarray) -> np.ndarray:
        """Writes the new cells; float32 (len(wanted), WIDTH) of those up to each wanted token."""
        named = step.tokens < 0  # a token that the last step chose and nobody has read
        tokens = np.where(named, 0, step.tokens)
        tokens[named] = self._chosen[-1 - step.tokens[named]]
        position = step.token_positions()
        row = np.repeat(np.arange(step.num_rows), step.n)
        vectors = self._tokens[tokens]
        for image in step.images:
            vectors[image.at] = image.encoded[image.skip : image.skip + len(image.at)]
        if step.adapter is not None:
            vectors = vectors + self._adapters[step.adapter][row]
        blocks = self._tables.rows(step.seq)
        cells = vectors * (2 * position[:, None] + 1) % PRIME
        self._cells[blocks[row, position // BLOCK], position % BLOCK] = cells
        for seq, n in zip(step.seq.tolist(), step.n.tolist(), strict=True):
            self._tables.advance(seq, n)
        sums = np.zeros((len(wanted), WIDTH), np.int64)
        for i, token in enumerate(wanted):
            seen = self._cells[blocks[row[token]]].reshape(-1, WIDTH)
            sums[i] = seen[: position[token] + 1].sum(axis=0)
        return (sums % PRIME / PRIME * 2 - 1).astype(np.float32)

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> Sampled:
        tokens = sample(logits.numpy(), batch)
        self._chosen = tokens.ids
        return Sampled(tokens)

    def read_adapter(self, path: Path) -> np.ndarray:
        try:
            return _draw(
                str(int(json.loads((path / "adapter_config.json").read_text())["seed"])), 1
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadAdapter("adapter_config.json holds no seed") from error

    def set_adapter(self, place: int, adapter: object | None) -> None:
        self._adapters[place] = 0 if adapter is None else adapter

    def read_image(self, image: Image) -> ReadImage:
        if not image.data or image.data.startswith(b"bad"):
            raise BadImage("nothing can be seen")
        num = len(image.data) // 2  # the model makes a vector of two bytes
        if num != image.num_placeholders:
            raise BadImage(f"it makes {num} vectors, not {image.num_placeholders}")
        return ReadImage(pixels=(image.digest, num))

    def encode_image(self, pixels: tuple[str, int]) -> np.ndarray:
        return _draw(*pixels)

    def stats(self) -> BackendStats:
        used = self._tables.used_blocks * BLOCK
        return BackendStats(cache_tokens_used=used, memory_bytes=self._cells.nbytes)

    def close(self) -> None:
        del self._cells


def _draw(seed: str, rows: int) -> np.ndarray:
    number = int.from_bytes(sha256(seed.encode()).digest()[:8], "little")
    return np.random.default_rng(number).integers(1, PRIME, (rows, WIDTH))


def _scale(request: LoadRequest) -> np.float32:
    unknown = set(request.options) - {"scale"}
    if unknown:
        raise UsageError(f"frozen-1-0 has no option {min(unknown)!r}; it has: scale.")
    if request.quantize or request.kv_cache_dtype or request.dtype not in (None, DType.FLOAT32):
        raise UnsupportedModel("frozen-1-0 computes in float32 and nothing else.")
    return np.float32(request.options.get("scale", 4))


def _config(model: ModelFiles) -> tuple[int, int]:
    try:
        config = json.loads((model.path / "config.json").read_text())
        return int(config["vocab_size"]), int(config["max_position_embeddings"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModel(f"{model.reference} has no config.json with its sizes.") from error


def _sizes(request: LoadRequest, longest: int):
    free = available_bytes()
    return choose_sizes(
        request, cell_bytes=CELL_BYTES, block_tokens=BLOCK, free_bytes=free, longest=longest
    )


def probe() -> Probe:
    return Probe(available=True, devices=("integers",), notes=("as of contract 1.0",))


def accepts(files: ModelFiles) -> Verdict:
    if files.format is not ModelFormat.SAFETENSORS:
        return Verdict(False, "it reads Hugging Face folders")
    return Verdict(False, "frozen-1-0 is asked for by name")


def plan(request: LoadRequest, memory_bytes: int | None) -> MemoryPlan:
    vocab, longest = _config(request.model)
    memory = available_bytes() if memory_bytes is None else memory_bytes
    sizes = plan_sizes(
        request, cell_bytes=CELL_BYTES, block_tokens=BLOCK, free_bytes=memory, longest=longest
    )
    return MemoryPlan(
        device="integers",
        weights="float32",
        weights_bytes=vocab * WIDTH * 12,
        cache_bytes=sizes.num_blocks * BLOCK * CELL_BYTES,
        cell_bytes=CELL_BYTES,
        step_bytes=sizes.max_rows * vocab * 4,
        memory_bytes=memory,
        cache_tokens=sizes.num_blocks * BLOCK,
        max_rows=sizes.max_rows,
        max_sequence_tokens=sizes.max_sequence_tokens,
        max_step_tokens=sizes.max_step_tokens,
        longest=longest,
    )


def convert(model: ModelFiles, target: Path, quantize: str | None, progress: Progress) -> None:
    if quantize is not None:
        raise UnsupportedModel("frozen-1-0 does not quantize.")
    shutil.copytree(model.path, target)
    progress("converting", 1, 1, "files")


@hookimpl
def tgi_backend() -> BackendSpec:
    return BackendSpec(
        name="frozen-1-0",
        contract=(1, 0),
        kind=BackendKind.STEP,
        probe=probe,
        accepts=accepts,
        create=Backend,
        priority=0,
        description="a stranger's backend",
        convert=convert,
        plan=plan,
    )
