"""What is in a file comes out as float32; what is no such file is refused, and nothing is run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgi_core.contract.safetensors import DamagedFile, read_safetensors

HALF = np.array([[1.5, -2.0, 0.0]], np.float32)


def write(path: Path, header: object, data: bytes = b"") -> Path:
    told = json.dumps(header).encode()
    path.write_bytes(len(told).to_bytes(8, "little") + told + data)
    return path


def entry(dtype: object, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_every_floating_dtype_is_read_as_float32(tmp_path: Path) -> None:
    stored = {
        "F64": HALF.astype("<f8").tobytes(),
        "F32": HALF.astype("<f4").tobytes(),
        "F16": HALF.astype("<f2").tobytes(),
        "BF16": (HALF.view(np.uint32) >> 16).astype("<u2").tobytes(),
    }
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    data = b""
    for dtype, raw in stored.items():
        header[dtype] = entry(dtype, [1, 3], len(data), len(data) + len(raw))
        data += raw
    tensors = read_safetensors(write(tmp_path / "file", header, data))
    assert set(tensors) == set(stored)
    for tensor in tensors.values():
        assert tensor.is_floating and tensor.shape == (1, 3)
        found = tensor.read()
        assert found.dtype == np.float32 and np.array_equal(found, HALF)


@pytest.mark.parametrize(
    ("header", "says"),
    [
        ([], "no JSON object"),
        ({"a": 1}, "makes no sense at a"),
        ({"a": entry("F32", [1], 0, 8)}, "not within"),
        ({"a": entry("F32", [2], 0, 8)}, "not within"),
        ({"a": entry("F32", [-1], 8, 4)}, "not within"),
        ({"a": entry("F32", [1.0], 0, 4)}, "not within"),
        ({"a": entry("F4", [1], 0, 4)}, "makes no sense"),
        ({"a": entry([], [1], 0, 4)}, "makes no sense"),
        ({"a": entry("F32", None, 0, 4)}, "makes no sense"),
    ],
)
def test_header_that_lies_is_refused(tmp_path: Path, header: object, says: str) -> None:
    with pytest.raises(DamagedFile, match=says):
        read_safetensors(write(tmp_path / "file", header, b"1234"))


def test_file_that_shrinks_is_noticed(tmp_path: Path) -> None:
    path = write(tmp_path / "file", {"a": entry("F32", [1], 0, 4)}, b"1234")
    tensor = read_safetensors(path)["a"]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match="ends before"):
        tensor.read()


@given(st.binary(max_size=64))
def test_noise_is_damaged_or_empty(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    path = tmp_path_factory.mktemp("noise") / "file"
    path.write_bytes(noise)
    try:
        assert not read_safetensors(path)
    except DamagedFile:
        pass
