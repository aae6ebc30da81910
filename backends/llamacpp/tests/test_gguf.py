"""No file whose header lies gets past the reader, and none makes it slow or large."""

from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tgi_backend_llamacpp.gguf import GgufArray, GgufHeader, read_model
from tgi_backend_llamacpp.tiny_gguf import WeightType, tiny_metadata, tiny_tensors, write_gguf

from tgi_core.errors import BadModel

FUZZ = settings(
    max_examples=300, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def written(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return path


def head_bytes(path: Path) -> int:
    return min(info.offset for info in read_model(path).tensors.values())


def test_a_good_file_is_read(tiny: Path) -> None:
    header = read_model(tiny)
    assert header.text("general.architecture") == "llama"
    assert header.number("llama.block_count", 0) == 2
    assert header.metadata["tokenizer.ggml.tokens"] == GgufArray(8, 320)
    types = header.metadata["tokenizer.ggml.token_type"]
    assert isinstance(types, GgufArray) and types.numbers[:4] == (2, 3, 3, 6)
    last = header.tensors["output_norm.weight"]
    assert last.shape == (64,) and last.offset + 64 * 4 == tiny.stat().st_size


def test_a_real_file_is_read_quickly(smollm: Path) -> None:
    began = time.process_time()
    header = read_model(smollm)
    assert time.process_time() - began < 1
    assert header.metadata["tokenizer.ggml.tokens"] == GgufArray(8, 49152)
    assert len(header.tensors) == 272
    assert "<|im_start|>" in (header.text("tokenizer.chat_template") or "")


@FUZZ
@given(st.data())
def test_a_truncated_file_is_refused(tiny: Path, tmp_path: Path, data: st.DataObject) -> None:
    whole = tiny.read_bytes()
    size = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(BadModel):
        read_model(written(tmp_path, whole[:size]))


@FUZZ
@given(st.data())
def test_a_damaged_header_is_refused_or_read_but_never_more(
    tiny: Path, tmp_path: Path, data: st.DataObject
) -> None:
    damaged = bytearray(tiny.read_bytes())
    last = head_bytes(tiny) - 8
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, last) | st.integers(0, 64))
        value = data.draw(st.integers(0, 2**64 - 1) | st.sampled_from([0, 2**31, 2**63, 2**64 - 1]))
        width = data.draw(st.sampled_from([1, 4, 8]))
        damaged[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")
    path = written(tmp_path, bytes(damaged))
    tracemalloc.start()
    try:
        assert isinstance(read_model(path), GgufHeader)
    except BadModel as error:
        assert str(path) in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 4 << 20


@FUZZ
@given(st.binary(max_size=400))
def test_noise_is_refused(tmp_path: Path, noise: bytes) -> None:
    with pytest.raises(BadModel):
        read_model(written(tmp_path, noise))
    with pytest.raises(BadModel):
        read_model(written(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + noise))


@pytest.mark.parametrize(
    ("head", "words"),
    [
        (b"", "cannot be read"),
        (b"PK\3\4" + bytes(60), "begins with"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "tensors, more than"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "entries, more than"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**40) + bytes(20), "claims 1099511627776"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**40),
            "claims 1099511627776 strings",
        ),
        (
            b"GGUF" + struct.pack("<IQQQ1sIIQQ", 3, 0, 1, 1, b"k", 9, 8, 1, 2**64 - 1) + bytes(9),
            "runs past its end",
        ),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 1), "elements of the type 9"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77) + bytes(9), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sI?", 3, 0, 1, 1, b"\xff", 7, True), "not UTF-8"),
        (
            b"GGUF" + struct.pack("<IQQQ1sI?Q1sI?", 3, 0, 2, 1, b"k", 7, 1, 1, b"k", 7, 1),
            "occurs twice",
        ),
    ],
)
def test_each_lie_is_named(tmp_path: Path, head: bytes, words: str) -> None:
    with pytest.raises(BadModel, match=words):
        read_model(written(tmp_path, head))


def test_tables_that_do_not_fit_the_vocabulary_are_refused(tmp_path: Path) -> None:
    metadata, tensors = tiny_metadata(), tiny_tensors([WeightType.F32])
    for key, value, words in [
        ("tokenizer.ggml.scores", [0.5] * 319, "320 tokens, but 319 in scores"),
        ("tokenizer.ggml.token_type", "none", "token_type is no array"),
        ("tokenizer.ggml.merges", [1, 2], "merges is no array of strings"),
        ("tokenizer.ggml.tokens", [1, 2], "tokens is no array of strings"),
        ("tokenizer.ggml.tokens", ["", "", "a", "b", "a"], "the token b'a' occurs twice"),
        ("general.alignment", 24, "general.alignment is 24"),
    ]:
        path = tmp_path / "model.gguf"
        write_gguf(path, {**metadata, key: value}, tensors)
        with pytest.raises(BadModel, match=words):
            read_model(path)


def test_every_shard_is_checked(tmp_path: Path) -> None:
    metadata = {**tiny_metadata(), "split.count": 2}
    first, second = (tmp_path / f"m-0000{i}-of-00002.gguf" for i in (1, 2))
    write_gguf(first, metadata, tiny_tensors([WeightType.F32]))
    with pytest.raises(BadModel, match="m-00002-of-00002"):
        read_model(first)
    write_gguf(second, {"split.count": 2}, {})
    assert read_model(first).number("split.count", 0) == 2
    with pytest.raises(BadModel, match="name the one that ends in -00001-of-00002"):
        read_model(second)
    second.write_bytes(second.read_bytes()[:30])
    with pytest.raises(BadModel, match="m-00002-of-00002"):
        read_model(first)
