"""Reads the header of a GGUF file and refuses a file that lies about itself.

Every count, length and offset is checked against the size of the file before it is used, so that
the C library is handed only files whose header is whole. Large arrays are stepped over, not
built. Does not read weights and does not know what any architecture needs.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tgi_core.errors import BadModel

Scalar = bool | int | float | str

_STRING, _ARRAY = 8, 9
_NUMBERS = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: struct.Struct("<I"),
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: struct.Struct("<Q"),
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}
_U32, _U64 = _NUMBERS[4], _NUMBERS[10]

# Limits far above any real model, so that a lying count costs neither time nor memory.
_MAX_ENTRIES = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_KEY_BYTES = 1 << 16
_MAX_STRING_BYTES = 1 << 24
_MAX_ARRAY_STRINGS = 1 << 23
_MAX_KEPT_NUMBERS = 1 << 12
_MAX_SHARDS = 1 << 12

_BLOCKS = {
    **dict.fromkeys((0, 26), (1, 4)),  # F32, I32
    **dict.fromkeys((1, 25, 30), (1, 2)),  # F16, I16, BF16
    **dict.fromkeys((27, 28), (1, 8)),  # I64, F64
    24: (1, 1),  # I8
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    15: (256, 292),  # Q8_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    29: (256, 56),  # IQ1_M
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
    40: (64, 36),  # NVFP4
}
"""Tensor type: (weights in a block, bytes of a block). The size of other types is unknown here;
of those only the place is checked, and llama.cpp has the last word."""


@dataclass(frozen=True, slots=True)
class GgufArray:
    """An array of the metadata."""

    type: int
    """Number of the element type: 8 is a string."""
    count: int
    numbers: tuple[int | float | bool, ...] = ()
    """The elements of a short array of numbers; empty for any other."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies."""

    shape: tuple[int, ...]
    """Fastest axis first."""
    type: int
    offset: int
    """Bytes from the begin of the file."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """All that a file says before its weights."""

    metadata: Mapping[str, Scalar | GgufArray]
    tensors: Mapping[str, TensorInfo]

    def number(self, key: str, default: int) -> int:
        """An integer of the metadata; `default` where the key is missing or is no integer."""
        value = self.metadata.get(key)
        return value if type(value) is int else default

    def text(self, key: str) -> str | None:
        """A string of the metadata."""
        value = self.metadata.get(key)
        return value if isinstance(value, str) else None


def read_model(path: Path) -> GgufHeader:
    """Reads the header of a model, and of all its shards if it is split.

    Returns:
        The header of the file at `path`, which for a split model must be the first shard.

    Raises:
        BadModel: a file is missing, is no GGUF, is cut short, or its header lies.
    """
    header = read_header(path)
    shards = header.number("split.count", 0)
    if shards > 1:
        first = f"-00001-of-{shards:05d}.gguf"
        if shards > _MAX_SHARDS or not path.name.endswith(first):
            raise BadModel(f"{path} is one of {shards} shards; name the one that ends in {first}.")
        for i in range(2, shards + 1):
            read_header(path.with_name(f"{path.name.removesuffix(first)}-{i:05d}-of-{first[-10:]}"))
    _check_vocabulary(path, header)
    return header


def read_header(path: Path) -> GgufHeader:
    """Reads one file.

    Raises:
        BadModel: the file cannot be read, is no GGUF, is cut short, or its header lies.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Reader(path, data).header()
    except (OSError, ValueError) as error:  # mmap refuses an empty file with ValueError
        raise BadModel(f"{path} cannot be read as GGUF ({error}).") from error


class _Reader:
    """A cursor over one file that never leaves it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._at = 0
        self._strings_left = _MAX_ARRAY_STRINGS

    def header(self) -> GgufHeader:
        magic = self._data[:4]
        if magic != b"GGUF":
            self._refuse(f"it begins with {magic!r} instead of b'GGUF'")
        self._at = 4
        version = self._u32()
        if version not in (2, 3):
            kind = "a big-endian file" if version in (2 << 24, 3 << 24) else f"version {version}"
            self._refuse(f"it is {kind}; versions 2 and 3, little-endian, can be served")
        num_tensors, num_entries = self._u64(), self._u64()
        # a tensor info takes at least 32 bytes, an entry at least 13
        if num_tensors > min(_MAX_TENSORS, self._size // 32):
            self._refuse(f"it claims {num_tensors} tensors, more than it can hold")
        if num_entries > min(_MAX_ENTRIES, self._size // 13):
            self._refuse(f"it claims {num_entries} metadata entries, more than it can hold")
        metadata = self._metadata(num_entries)
        return GgufHeader(metadata, self._tensors(num_tensors, self._alignment(metadata)))

    def _metadata(self, count: int) -> dict[str, Scalar | GgufArray]:
        metadata: dict[str, Scalar | GgufArray] = {}
        for _ in range(count):
            key = self._name()
            if key in metadata:
                self._refuse(f"the metadata key {key!r} occurs twice")
            metadata[key] = self._value(key)
        return metadata

    def _value(self, key: str) -> Scalar | GgufArray:
        kind = self._u32()
        if kind == _STRING:
            return self._string(_MAX_STRING_BYTES).decode("utf-8", "replace")
        if kind == _ARRAY:
            return self._array(key)
        if kind not in _NUMBERS:
            self._refuse(f"the metadata key {key!r} has the unknown type {kind}")
        value: bool | int | float = self._unpack(_NUMBERS[kind])
        return value

    def _array(self, key: str) -> GgufArray:
        kind, count = self._u32(), self._u64()
        if kind == _STRING:
            if count > min(self._strings_left, (self._size - self._at) // 8):
                self._refuse(f"the array {key!r} claims {count} strings, more than it can hold")
            self._strings_left -= count
            begin = self._at
            self._skip_strings(key, count)
            if key == "tokenizer.ggml.tokens":
                self._check_distinct(begin, count)
            return GgufArray(kind, count)
        if kind not in _NUMBERS:
            self._refuse(f"the array {key!r} has elements of the type {kind}")
        element = _NUMBERS[kind]
        begin = self._take(count * element.size, f"the array {key!r}")
        if count > _MAX_KEPT_NUMBERS:
            return GgufArray(kind, count)
        numbers = struct.unpack_from(f"<{count}{element.format[-1]}", self._data, begin)
        return GgufArray(kind, count, numbers)

    def _skip_strings(self, key: str, count: int) -> None:
        # the hot loop of a header: a vocabulary has some 10**5 strings
        at, size, data, length = self._at, self._size, self._data, _U64.unpack_from
        try:
            for _ in range(count):
                at += 8 + length(data, at)[0]
        except (
            struct.error,
            OverflowError,
        ):  # `at` ran past the end; 64-bit lengths never bring it back
            at = size + 1
        if at > size:
            self._refuse(f"the array {key!r} runs past its end")
        self._at = at

    def _check_distinct(self, at: int, count: int) -> None:
        """Two tokens of one text make llama.cpp abort the process; empty ones it renames."""
        seen: set[bytes] = set()
        for _ in range(count):
            begin = at + 8
            at = begin + _U64.unpack_from(self._data, at)[0]
            text = self._data[begin:at]
            if text and text in seen:
                self._refuse(f"the token {text[:80]!r} occurs twice")
            seen.add(text)

    def _alignment(self, metadata: Mapping[str, Scalar | GgufArray]) -> int:
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or not 8 <= alignment <= 1 << 20 or alignment.bit_count() > 1:
            self._refuse(f"general.alignment is {alignment!r}, not a power of two from 8 on")
        return alignment

    def _tensors(self, count: int, alignment: int) -> dict[str, TensorInfo]:
        found: list[tuple[str, TensorInfo]] = []
        for _ in range(count):
            name, axes = self._name(), self._u32()
            if not 1 <= axes <= 4:
                self._refuse(f"the tensor {name!r} has {axes} axes")
            shape = tuple(self._u64() for _ in range(axes))
            found.append((name, TensorInfo(shape, self._u32(), self._u64())))
        begin = -(-self._at // alignment) * alignment
        tensors = {}
        for name, info in found:
            if name in tensors:
                self._refuse(f"the tensor {name!r} occurs twice")
            end = begin + info.offset + self._tensor_bytes(name, info)
            if info.offset % alignment or end > self._size:
                self._refuse(
                    f"the tensor {name!r} should end at byte {end}, but the file has "
                    f"{self._size} bytes; was the download cut short?"
                )
            tensors[name] = TensorInfo(info.shape, info.type, begin + info.offset)
        return tensors

    def _tensor_bytes(self, name: str, info: TensorInfo) -> int:
        """Size in bytes; 0 for a type that is unknown here."""
        weights = 1
        for axis in info.shape:
            weights *= axis
        if not 0 < weights < 1 << 62:
            self._refuse(f"the tensor {name!r} has the shape {info.shape}")
        block, block_bytes = _BLOCKS.get(info.type, (1, 0))
        if info.shape[0] % block:
            self._refuse(f"the rows of {name!r} are {info.shape[0]} long, no multiple of {block}")
        return weights // block * block_bytes

    def _name(self) -> str:
        name = self._string(_MAX_KEY_BYTES)
        try:
            return name.decode()
        except UnicodeDecodeError:
            self._refuse(f"the name {name[:40]!r} is not UTF-8")

    def _string(self, limit: int) -> bytes:
        length = self._u64()
        if length > limit:
            self._refuse(f"a string at byte {self._at} claims {length} bytes")
        begin = self._take(length, "a string")
        return self._data[begin : begin + length]

    def _u32(self) -> int:
        value: int = self._unpack(_U32)
        return value

    def _u64(self) -> int:
        value: int = self._unpack(_U64)
        return value

    def _unpack(self, number: struct.Struct):  # type: ignore[no-untyped-def]
        return number.unpack_from(self._data, self._take(number.size, "a number"))[0]

    def _take(self, size: int, what: str) -> int:
        begin = self._at
        if size > self._size - begin:
            self._refuse(f"{what} at byte {begin} runs past its end")
        self._at = begin + size
        return begin

    def _refuse(self, why: str) -> NoReturn:
        raise BadModel(f"{self._path} is not a usable GGUF file: {why}. Fetch it again.")


def _check_vocabulary(path: Path, header: GgufHeader) -> None:
    """Arrays that llama.cpp reads side by side must be equally long, and of the right type."""
    tokens = header.metadata.get("tokenizer.ggml.tokens")
    if tokens is None:
        return
    if not isinstance(tokens, GgufArray) or tokens.type != _STRING:
        raise BadModel(f"{path}: tokenizer.ggml.tokens is no array of strings.")
    for key, types in (("scores", (5, 6)), ("token_type", (5,))):
        array = header.metadata.get(f"tokenizer.ggml.{key}")
        if array is None:
            continue
        if not isinstance(array, GgufArray) or array.type not in types:
            raise BadModel(f"{path}: tokenizer.ggml.{key} is no array of numbers.")
        if array.count < tokens.count:
            raise BadModel(f"{path}: {tokens.count} tokens, but {array.count} in {key}.")
    merges = header.metadata.get("tokenizer.ggml.merges")
    if merges is not None and not (isinstance(merges, GgufArray) and merges.type == _STRING):
        raise BadModel(f"{path}: tokenizer.ggml.merges is no array of strings.")
