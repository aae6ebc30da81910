"""Times the graph of one decoding step of a model, by each way that an architecture offers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from tgi_backend_cuda.chip import Chip, nvidia_chip
from tgi_backend_cuda.inputs import Inputs, Shape
from tgi_backend_cuda.tiles import Architecture, Stream
from tgi_backend_torch.cache import BLOCK_TOKENS
from transformers import PretrainedConfig

from tests.bench.gpu.limits import seconds
from tests.bench.gpu.models import RandomBackend
from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat, Step

_ROWS = (1, 8)
_PAST = (190, 2000, 8000)
_CACHE_TOKENS = 1 << 17
"""Room for all of these, and more than the chip's own cache holds."""


def _going_on(arch: Architecture, rounds: float) -> Architecture:
    stream: Stream | None = arch.stream
    return arch if stream is None else replace(arch, stream=replace(stream, rounds=rounds))


WAYS: dict[str, Callable[[Architecture], Architecture]] = {
    "as it is": lambda arch: arch,
    "three kernels of attention": lambda arch: replace(arch, joined=None),
    "a program for each part of a product": lambda arch: _going_on(arch, float("inf")),
    "programs go on from 1.5 rounds on": lambda arch: _going_on(arch, 1.5),
}


def ways(config: PretrainedConfig, folder: Path) -> Iterator[str]:
    """A line for each way."""
    config.save_pretrained(folder)
    chip = nvidia_chip()
    for name, change in WAYS.items():
        arch = change(chip.architecture)
        told = ", ".join(_times(config, folder, replace(chip, architecture=arch)))
        yield f"  {name}: {told}"


def _times(config: PretrainedConfig, folder: Path, chip: Chip) -> Iterator[str]:
    backend = RandomBackend(config, chip)
    files = ModelFiles(reference="random", path=folder, format=ModelFormat.SAFETENSORS)
    request = LoadRequest(
        model=files, max_rows=max(_ROWS), max_step_tokens=512, cache_tokens=_CACHE_TOKENS
    )
    backend.load(request, lambda *_: None)
    computing = backend._here().computing
    graphs = []  # one that is freed takes the memory of all along
    for rows in _ROWS:
        for past in _PAST:
            shape = Shape(tokens=rows, rows=rows, outputs=rows, decode=True, short=True)
            inputs = Inputs.of(computing._buffer, shape)
            step, tables = _step(rows, past)
            computing._send(step, tables, shape)
            graphs.append(computing._driver.capture(lambda inputs=inputs: computing._fill(inputs)))
            took = seconds(graphs[-1].replay, repeats=20)
            yield f"{rows} rows after {past} {took * 1e6:.0f} us"
    backend.close()


def _step(rows: int, past: int) -> tuple[Step, np.ndarray]:
    width = past // BLOCK_TOKENS + 1
    blocks = np.random.default_rng(1).permutation(rows * width).astype(np.int32)
    step = Step(
        seq=np.arange(rows, dtype=np.int32),
        past=np.full(rows, past, np.int32),
        n=np.ones(rows, np.int32),
        tokens=np.full(rows, 5, np.int32),
        out=np.arange(rows, dtype=np.int32),
    )
    return step, blocks.reshape(rows, width)
