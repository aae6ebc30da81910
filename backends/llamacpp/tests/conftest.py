"""Models and a small driver for the tests of this package."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from tgi_backend_llamacpp.backend import LlamaCppBackend
from tgi_backend_llamacpp.tiny_gguf import WeightType, write_tiny_model

from tests.smollm2 import put_gguf
from tgi_core.contract import Capabilities, LoadRequest, ModelFiles, ModelFormat, Step

EXACT = {"type_k": "f32", "type_v": "f32", "flash_attn": "off"}
"""Options under which a float32 model leaves only the rounding of float32."""


class Driver:
    """A loaded backend that knows how long its sequences are."""

    def __init__(self, path: Path, options: dict[str, str], **sizes: int) -> None:
        self.backend = LlamaCppBackend()
        self.progress: list[tuple[str, float, float]] = []
        self.can: Capabilities = self.backend.load(
            LoadRequest(
                model=ModelFiles(reference=str(path), path=path, format=ModelFormat.GGUF),
                num_threads=1,
                options=options,
                **sizes,
            ),
            lambda phase, done, total, unit="": self.progress.append((phase, done, total)),
        )
        self.held = [0] * self.can.max_sequences

    def make_step(self, rows: dict[int, Sequence[int]], out: Sequence[int] | None = None) -> Step:
        """Rows in the given order; `out` defaults to the last token of each."""
        n = np.array([len(tokens) for tokens in rows.values()], np.int32)
        return Step(
            seq=np.array(list(rows), np.int32),
            past=np.array([self.held[seq] for seq in rows], np.int32),
            n=n,
            tokens=np.array([t for tokens in rows.values() for t in tokens], np.int32),
            out=np.cumsum(n, dtype=np.int32) - 1 if out is None else np.array(out, np.int32),
        )

    def step(self, rows: dict[int, Sequence[int]], out: Sequence[int] | None = None) -> np.ndarray:
        """Reserves, runs and returns a copy of the logits."""
        for seq, tokens in rows.items():
            assert self.backend.reserve(seq, self.held[seq] + len(tokens))
        logits = self.backend.step(self.make_step(rows, out)).numpy().copy()
        for seq, tokens in rows.items():
            self.held[seq] += len(tokens)
        return logits

    def fork(self, src: int, dst: int, length: int) -> None:
        assert self.backend.fork(src, dst, length)
        self.held[dst] = length

    def truncate(self, seq: int, length: int) -> None:
        self.backend.truncate(seq, length)
        self.held[seq] = length

    def release(self, seq: int) -> None:
        self.backend.release(seq)
        self.held[seq] = 0


@pytest.fixture
def drive() -> Iterator[Callable[..., Driver]]:
    """Loads a model: drive(path, **sizes, options={...}); closed after the test."""
    drivers: list[Driver] = []

    def load(path: Path, *, options: dict[str, str] | None = None, **sizes: int) -> Driver:
        drivers.append(Driver(path, EXACT if options is None else options, **sizes))
        return drivers[-1]

    yield load
    for driver in drivers:
        driver.backend.close()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random float32 llama with a vocabulary of 320 tokens."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    write_tiny_model(path, WeightType.F32)
    return path


@pytest.fixture(scope="session")
def smollm() -> Path:
    """SmolLM2-135M-Instruct as Q4_1."""
    return put_gguf(Path(__file__).parents[3] / ".models")
