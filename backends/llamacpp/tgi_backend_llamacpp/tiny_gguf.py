"""Writes GGUF files: any metadata and tensors, and a tiny random model to try a build with.

Knows how a GGUF file lies on disk and how three of its tensor types are packed; does not know
what llama.cpp makes of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

ALIGNMENT = 32
"""Bytes; what a reader assumes when the metadata names no alignment."""

MetadataValue = bool | int | float | str | Sequence[str] | Sequence[int] | Sequence[float]


class WeightType(IntEnum):
    """Numbers that a tensor info stores."""

    F32 = 0
    Q4_0 = 2
    Q8_0 = 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as it is written."""

    type: WeightType
    shape: tuple[int, ...]
    """Fastest axis first, as GGUF counts: (columns, rows)."""
    data: bytes


def write_gguf(
    path: Path, metadata: Mapping[str, MetadataValue], tensors: Mapping[str, Tensor]
) -> None:
    """Writes a version 3 file. Ints become uint32, or int32 in arrays; floats float32."""
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata)))
    for key, value in metadata.items():
        head += _string(key) + _value(value)
    offset = 0
    for name, tensor in tensors.items():
        head += _string(name) + struct.pack("<I", len(tensor.shape))
        head += struct.pack(f"<{len(tensor.shape)}QIQ", *tensor.shape, tensor.type, offset)
        offset += _aligned(len(tensor.data))
    with path.open("wb") as file:
        file.write(head.ljust(_aligned(len(head)), b"\0"))
        for tensor in tensors.values():
            file.write(tensor.data.ljust(_aligned(len(tensor.data)), b"\0"))


def pack(weights: NDArray[np.float32], type: WeightType) -> Tensor:
    """Packs a matrix (rows, columns) or a vector; columns are a multiple of 32."""
    data = _PACKERS[type](weights.reshape(-1, 32) if type != WeightType.F32 else weights)
    return Tensor(type, weights.shape[::-1], data)


def tiny_metadata(*, context_length: int = 512) -> dict[str, MetadataValue]:
    """Metadata of a two-layer llama with a sentencepiece-like vocabulary of 320 tokens."""
    tokens = ["<unk>", "<s>", "</s>"]
    tokens += [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += ["▁", *"abcdefghijklmnopqrstuvwxyz"]
    tokens += ["▁a", "▁b", "th", "he", "the", "▁the"]
    tokens += [f"<filler_{i}>" for i in range(320 - len(tokens))]
    normal, unknown, control, byte = 1, 2, 3, 6
    types = [unknown, control, control] + [byte] * 256
    types += [normal] * (len(tokens) - len(types))
    return {
        "general.architecture": "llama",
        "general.name": "tiny",
        "llama.context_length": context_length,
        "llama.embedding_length": 64,
        "llama.block_count": 2,
        "llama.feed_forward_length": 128,
        "llama.attention.head_count": 2,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": 32,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [-float(i) for i in range(len(tokens))],
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": "{{ messages[0]['content'] }}",
    }


def tiny_tensors(weights: Sequence[WeightType], seed: int = 0) -> dict[str, Tensor]:
    """Random weights for `tiny_metadata`; its matrices take the types of `weights` in turn."""
    rng = np.random.default_rng(seed)
    shapes = {"token_embd": (320, 64)}
    for block in ("blk.0", "blk.1"):
        shapes |= {
            f"{block}.attn_q": (64, 64),
            f"{block}.attn_k": (32, 64),
            f"{block}.attn_v": (32, 64),
            f"{block}.attn_output": (64, 64),
            f"{block}.ffn_gate": (128, 64),
            f"{block}.ffn_up": (128, 64),
            f"{block}.ffn_down": (64, 128),
        }
    shapes["output"] = (320, 64)
    tensors = {}
    for i, (name, shape) in enumerate(shapes.items()):
        matrix = rng.standard_normal(shape, np.float32) / np.float32(8)
        tensors[f"{name}.weight"] = pack(matrix, weights[i % len(weights)])
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "blk.1.attn_norm", "blk.1.ffn_norm"):
        tensors[f"{name}.weight"] = pack(np.ones(64, np.float32), WeightType.F32)
    tensors["output_norm.weight"] = pack(np.ones(64, np.float32), WeightType.F32)
    return tensors


def write_tiny_model(path: Path, *weights: WeightType) -> None:
    """Writes a random model of about 90 thousand weights."""
    write_gguf(path, tiny_metadata(), tiny_tensors(weights))


def _pack_q8_0(blocks: NDArray[np.float32]) -> bytes:
    scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    levels = np.rint(blocks / np.maximum(scale.astype(np.float32), 1e-12)).clip(-127, 127)
    return np.hstack([scale.view(np.uint8), levels.astype(np.int8).view(np.uint8)]).tobytes()


def _pack_q4_0(blocks: NDArray[np.float32]) -> bytes:
    scale = (np.abs(blocks).max(1, keepdims=True) / 7).astype(np.float16)
    levels = np.rint(blocks / np.maximum(scale.astype(np.float32), 1e-12)).clip(-8, 7) + 8
    low, high = np.hsplit(levels.astype(np.uint8), 2)
    return np.hstack([scale.view(np.uint8), low | (high << 4)]).tobytes()


_PACKERS: dict[WeightType, Callable[[NDArray[np.float32]], bytes]] = {
    WeightType.F32: lambda weights: weights.astype("<f4").tobytes(),
    WeightType.Q4_0: _pack_q4_0,
    WeightType.Q8_0: _pack_q8_0,
}


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: MetadataValue) -> bytes:
    if isinstance(value, bool):
        return struct.pack("<IB", 7, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, str):
        return struct.pack("<I", 8) + _string(value)
    array = struct.pack("<I", 9)
    if isinstance(value[0], str):
        strings = b"".join(_string(str(element)) for element in value)
        return array + struct.pack("<IQ", 8, len(value)) + strings
    if isinstance(value[0], float):
        return array + struct.pack(f"<IQ{len(value)}f", 6, len(value), *value)
    return array + struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
