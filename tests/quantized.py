"""Checkpoints in the formats that quantize weights, written by hand, number by number.

Each maker takes a weight and gives the tensors that a file would hold of it and, beside them, what
they stand for. No format comes from the code that reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file
from tgi_backend_torch.quant.linear import few_bits_linears
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from tests.families import GQA, make_model

Made = tuple[dict[str, Tensor], Tensor]
WIDE = {**GQA, "hidden_size": 128, "intermediate_size": 192, "initializer_range": 0.05}


@dataclass(frozen=True, slots=True)
class Written:
    """A quantized model, and one in float32 with the same numbers."""

    folder: Path
    same: Path


def write(
    folder: Path,
    told: dict[str, Any],
    make: Callable[[Tensor], Made],
    config: transformers.PretrainedConfig | None = None,
) -> Written:
    """Quantizes all linear layers but the head, and all experts.

    Args:
        folder: where.
        told: quantization_config.
        make: what makes tensors of a weight, (outputs, inputs).
        config: of the model; by default a small Llama.
    """
    source = make_model(folder / "same", config or transformers.LlamaConfig(**WIDE))
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.from_pretrained(source)
        )
    linears = {
        f"{name}.weight": isinstance(module, Conv1D)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and name != "lm_head" and len(module.weight) > 1
    }
    dense, packed = {}, {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if name in linears or ".experts." in name:
            transposed = linears.get(name, False)
            tensors, tensor = make(tensor.t().contiguous() if transposed else tensor)
            tensor = tensor.t() if transposed else tensor
            layer = name.removesuffix(".weight")
            packed |= {f"{layer}.{key}": each.contiguous() for key, each in tensors.items()}
        else:
            packed[name] = tensor.clone()
        dense[name] = tensor.contiguous()
    save_file(dense, source / "model.safetensors", metadata={"format": "pt"})
    target = folder / "quantized"
    target.mkdir()
    save_file(packed, target / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((source / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**raw, "quantization_config": told}))
    return Written(target, source)


def dense_of(backend: Any, folder: Path, target: Path, *, transposed: bool = False) -> Path:
    """A folder like that of a model of the torch backend, with what its layers of few bits stand
    for; `transposed`: the files have (inputs, outputs).
    """
    model = backend._loaded.flat.model
    tensors = load_file(folder / "model.safetensors")
    for name, layer in few_bits_linears(model):
        outputs, inputs = layer.held.shape
        room = torch.empty(outputs * inputs, dtype=torch.float32)
        rows = layer.held.rows(0, outputs, room).clone()
        tensors[f"{name}.weight"] = (rows.t() if transposed else rows).contiguous()
    target.mkdir()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())
    return target


def bits_of(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Numbers (n, m) one after another along the first axis, lowest bit first: int32 (words, m)."""
    n, m = numbers.shape
    stream = np.zeros((n * bits, m), np.uint8)
    for bit in range(bits):
        stream[bit::bits] = (numbers >> bit) & 1
    words = stream.reshape(n * bits // 32, 32, m).astype(np.uint32)
    return (
        (words << np.arange(32, dtype=np.uint32)[None, :, None])
        .sum(1, dtype=np.uint32)
        .view(np.int32)
    )


def gptq(weight: Tensor, *, bits: int, size: int, order: bool = False, less: int = 1) -> Made:
    """qweight (words, outputs), qzeros (groups, words), scales and g_idx."""
    w = weight.double().numpy()
    outputs, inputs = w.shape
    rng = np.random.default_rng(inputs)
    groups = -(-inputs // size)
    group_of = np.arange(inputs) // size
    if order:
        group_of = rng.permutation(group_of)
    scales = (rng.random((groups, outputs)) * 0.02 + 0.01).astype(np.float16)
    zeros = rng.integers(0 if less else 1, 1 << bits, (groups, outputs))
    scale, zero = scales[group_of].astype(float).T, zeros[group_of].T
    numbers = np.clip(np.round(w / scale) + zero, 0, (1 << bits) - 1).astype(np.int64)
    stored = (zeros - less) % (1 << bits)
    tensors = {
        "qweight": torch.from_numpy(bits_of(numbers.T, bits).copy()),
        "qzeros": torch.from_numpy(bits_of(stored.T, bits).T.copy()),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(group_of.astype(np.int32)),
    }
    return tensors, torch.from_numpy((numbers - zero) * scale).float()


def marlin(weight: Tensor, *, size: int) -> Made:
    """B (inputs / 16, outputs * 2) and s (groups, outputs), each number put where a warp of
    Marlin's kernel looks for it. The weight is that of `gptq` with 8 as the zero of all.
    """
    numbers, scales = symmetric(weight, size)
    inputs, outputs = numbers.shape
    row, word, shift = marlin_places(inputs, outputs, 4)
    words = np.zeros((inputs // 16, outputs * 2), np.uint32)
    np.bitwise_or.at(words, (row, word), (numbers << shift).astype(np.uint32))
    stored = np.empty_like(scales)
    stored[:, marlin_scale_places(outputs, len(scales))] = scales
    tensors = {"B": torch.from_numpy(words.view(np.int32)), "s": torch.from_numpy(stored)}
    return tensors, _of_symmetric(numbers, scales)


def marlin_places(inputs: int, outputs: int, bits: int) -> tuple[np.ndarray, ...]:
    """In which row, word and bits Marlin's kernels look for each number: (inputs, outputs) each."""
    k, n = np.indices((inputs, outputs))
    # mma.m16n8k16: a thread has four numbers of one of the columns, in pairs eight rows apart
    thread = n % 8 * 4 + k % 8 // 2
    block, half, odd = n // 8 % 2, k // 8 % 2, k % 2
    word = n // 64 * 128 + thread * 4 + n // 16 % 4
    if bits == 4:
        return k // 16, word, 4 * (block * 2 + half + 4 * odd)
    return k // 16, word * 2 + block, 8 * (half + 2 * odd)


def marlin_scale_places(outputs: int, groups: int) -> np.ndarray:
    """In which column they look for the scale of each output."""
    n = np.arange(outputs)
    if groups > 1:
        return n // 64 * 64 + n % 8 * 8 + n % 64 // 8
    return n // 32 * 32 + n % 8 // 2 * 8 + n % 32 // 8 * 2 + n % 2


def gptq_of_marlin(weight: Tensor, *, size: int) -> Made:
    """The GPTQ checkpoint that `marlin` is made of."""
    numbers, scales = symmetric(weight, size)
    inputs, outputs = numbers.shape
    zeros = np.full((len(scales), outputs), 7)
    tensors = {
        "qweight": torch.from_numpy(bits_of(numbers, 4).copy()),
        "qzeros": torch.from_numpy(bits_of(zeros.T, 4).T.copy()),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.arange(inputs, dtype=torch.int32) // (inputs // len(scales)),
    }
    return tensors, _of_symmetric(numbers, scales)


def symmetric(weight: Tensor, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Numbers (inputs, outputs) of 4 bits, of which 8 is zero, and their scales (groups, outputs);
    size -1: one group.
    """
    w = weight.double().numpy().T
    rng = np.random.default_rng(len(w))
    groups = 1 if size < 0 else len(w) // size
    scales = (rng.random((groups, w.shape[1])) * 0.02 + 0.01).astype(np.float16)
    spread = scales.repeat(len(w) // groups, 0).astype(float)
    return np.clip(np.round(w / spread) + 8, 0, 15).astype(np.int64), scales


def _of_symmetric(numbers: np.ndarray, scales: np.ndarray) -> Tensor:
    spread = scales.repeat(len(numbers) // len(scales), 0).astype(float)
    return torch.from_numpy(((numbers - 8) * spread).T.copy()).float()


def awq(weight: Tensor, *, size: int) -> Made:
    """qweight (inputs, outputs / 8), qzeros (groups, outputs / 8), scales (groups, outputs)."""
    w = weight.double().numpy()
    outputs, inputs = w.shape
    rng = np.random.default_rng(inputs)
    groups = inputs // size
    scales = (rng.random((groups, outputs)) * 0.02 + 0.01).astype(np.float16)
    zeros = rng.integers(0, 16, (groups, outputs))
    scale, zero = (np.repeat(x, size, 0) for x in (scales.astype(float), zeros))
    numbers = np.clip(np.round(w.T / scale) + zero, 0, 15).astype(np.int64)

    def words(rows: np.ndarray) -> Tensor:
        packed = np.zeros((len(rows), outputs // 8), np.uint32)
        for place, column in enumerate((0, 2, 4, 6, 1, 3, 5, 7)):
            packed |= rows[:, column::8].astype(np.uint32) << np.uint32(4 * place)
        return torch.from_numpy(packed.view(np.int32).copy())

    tensors = {
        "qweight": words(numbers),
        "qzeros": words(zeros),
        "scales": torch.from_numpy(scales),
    }
    return tensors, torch.from_numpy(((numbers - zero) * scale).T.copy()).float()


def fp8(weight: Tensor, *, block: tuple[int, int] | None, whole: bool = False) -> Made:
    """weight in e4m3 and weight_scale_inv of blocks, or weight_scale of outputs or of all."""
    outputs, inputs = weight.shape
    rng = np.random.default_rng(inputs)
    high, wide = block or ((outputs, inputs) if whole else (1, inputs))
    shape = (-(-outputs // high), -(-inputs // wide))
    scales = torch.from_numpy(rng.random(shape).astype(np.float32) * 1e-3 + 1e-3)
    spread = scales.repeat_interleave(high, 0)[:outputs].repeat_interleave(wide, 1)[:, :inputs]
    numbers = (weight / spread).clamp(-448, 448).to(torch.float8_e4m3fn)
    name = "weight_scale_inv" if block else "weight_scale"
    told = scales.reshape(()) if whole else scales
    return {"weight": numbers, name: told}, numbers.float() * spread


def compressed_ints(
    weight: Tensor, *, bits: int, size: int, symmetric: bool, order: bool = False
) -> Made:
    """weight_packed (outputs, words), offset by half the range; zero points along the outputs."""
    w = weight.double().numpy()
    outputs, inputs = w.shape
    rng = np.random.default_rng(inputs)
    groups = inputs // size
    half = 1 << (bits - 1)
    group_of = np.arange(inputs) // size
    if order:
        group_of = rng.permutation(group_of)
    scales = (rng.random((outputs, groups)) * 0.02 + 0.01).astype(np.float16)
    zeros = np.zeros((outputs, groups), int)
    if not symmetric:
        zeros = rng.integers(-half, half, (outputs, groups))
    scale, zero = scales[:, group_of].astype(float), zeros[:, group_of]
    numbers = np.clip(np.round(w / scale) + zero, -half, half - 1).astype(np.int64)
    tensors = {
        "weight_packed": torch.from_numpy(bits_of(numbers.T + half, bits).T.copy()),
        "weight_scale": torch.from_numpy(scales),
        "weight_shape": torch.tensor([outputs, inputs]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = torch.from_numpy(bits_of(zeros + half, bits).copy())
    if order:
        tensors["weight_g_idx"] = torch.from_numpy(group_of.astype(np.int32))
    return tensors, torch.from_numpy((numbers - zero) * scale).float()


def int8(weight: Tensor, *, divide: float, scale: str) -> Made:
    """weight in int8, and a scale for each output, which `divide` belongs to."""
    scales = weight.abs().amax(1) / 127
    numbers = (weight / scales[:, None]).round().to(torch.int8)
    stored = scales * divide
    tensors = {"weight": numbers, scale: stored if scale == "SCB" else stored[:, None]}
    return tensors, numbers.float() * scales[:, None]


def four_bit_table(weight: Tensor, *, kind: str, table: Tensor, nested: bool) -> Made:
    """weight (bytes, 1), high half first, absmax of blocks of 64, perhaps quantized once more."""
    outputs, inputs = weight.shape
    blocks = weight.view(-1, 64)
    absmax = blocks.abs().amax(1)
    state: dict[str, Any] = {"quant_type": kind, "blocksize": 64, "shape": [outputs, inputs]}
    tensors = {"weight.quant_map": table.clone()}
    if nested:
        offset = float(absmax.mean())
        nested_table = torch.linspace(-1, 1, 256)
        outer = torch.stack([part.abs().max() for part in (absmax - offset).split(256)])
        spread = outer.repeat_interleave(256)[: len(absmax)]
        codes = ((absmax - offset) / spread)[:, None].sub(nested_table).abs().argmin(1)
        state |= {"nested_blocksize": 256, "nested_offset": offset}
        tensors |= {
            "weight.absmax": codes.to(torch.uint8),
            "weight.nested_absmax": outer,
            "weight.nested_quant_map": nested_table.clone(),
        }
        absmax = nested_table[codes] * spread + offset
    else:
        tensors["weight.absmax"] = absmax
    codes = (blocks / absmax[:, None])[..., None].sub(table).abs().argmin(-1).view(-1)
    tensors["weight"] = (codes[0::2] * 16 + codes[1::2]).to(torch.uint8)[:, None]
    tensors[f"weight.quant_state.bitsandbytes__{kind}"] = torch.tensor(
        list(json.dumps(state).encode()), dtype=torch.uint8
    )
    return tensors, (table[codes].view(-1, 64) * absmax[:, None]).view(outputs, inputs)
