"""What the contract promises of reserve, fork, truncate, release and step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tgi_backend_llamacpp.tiny_gguf import (
    WeightType,
    pack,
    tiny_metadata,
    tiny_tensors,
    write_gguf,
)

from tgi_core.contract import Step
from tgi_core.errors import RowsFailed, Unsupported

A = [1, *range(262, 291)]  # thirty tokens each
B = [1, *range(289, 260, -1)]


# 20 streams of 512 tokens, or one pool for all
either = pytest.mark.parametrize("sizes", [{}, {"cache_tokens": 1024}], ids=["streams", "pool"])


def close(a: np.ndarray, b: np.ndarray, tolerance: float = 1e-4) -> bool:
    return bool(np.allclose(a, b, rtol=0, atol=tolerance))


@pytest.fixture
def gemma(tmp_path: Path) -> Path:
    """A tiny Gemma 2, every other layer of which sees only the last 16 tokens."""
    metadata = {
        key.replace("llama.", "gemma2.", 1) if key.startswith("llama.") else key: value
        for key, value in tiny_metadata().items()
    }
    metadata |= {
        "general.architecture": "gemma2",
        "gemma2.attention.sliding_window": 16,
        "gemma2.attention.key_length": 32,
        "gemma2.attention.value_length": 32,
    }
    tensors = tiny_tensors([WeightType.F32])
    del tensors["output.weight"]
    for block in ("blk.0", "blk.1"):
        for name in ("post_attention_norm", "post_ffw_norm"):
            norm = pack(np.ones(64, np.float32), WeightType.F32)
            tensors[f"{block}.{name}.weight"] = norm
    path = tmp_path / "gemma.gguf"
    write_gguf(path, metadata, tensors)
    return path


@either
def test_rows_together_equal_rows_alone(tiny: Path, drive: Callable, sizes: dict[str, int]) -> None:
    alone_a = drive(tiny, **sizes).step({0: A}, range(30))
    alone_b = drive(tiny, **sizes).step({3: B}, range(30))
    together = drive(tiny, **sizes).step({7: A, 2: B}, range(60))
    assert close(together, np.concatenate([alone_a, alone_b]))
    assert not close(alone_a[1:], alone_b[1:])


@either
def test_mixed_steps_and_chunks_equal_the_whole_prompt(
    tiny: Path, drive: Callable, sizes: dict[str, int]
) -> None:
    whole = drive(tiny, **sizes).step({0: A}, range(30))
    driver = drive(tiny, **sizes)
    driver.step({1: B[:20]})
    got = [driver.step({0: A[:7], 1: B[20:21]}, range(7))]
    got.append(driver.step({1: B[21:22], 0: A[7:8]}, [1]))
    got.append(driver.step({0: A[8:30], 1: B[22:30]}, range(22)))
    assert close(np.concatenate(got), whole)


@either
def test_logits_outlast_a_part_of_the_step_that_asks_for_none(
    tiny: Path, drive: Callable, sizes: dict[str, int]
) -> None:
    """A long prompt is computed after the rows that decode, in a `llama_decode` of its own."""
    alone = drive(tiny, **sizes)
    alone.step({1: B[:20]})
    driver = drive(tiny, **sizes)
    driver.step({1: B[:20]})
    together = driver.step({1: B[20:21], 0: A[:25]}, [0])
    assert close(together, alone.step({1: B[20:21]}))
    assert np.abs(together).max() > 0


@either
def test_logits_come_in_the_order_of_out_and_only_those(
    tiny: Path, drive: Callable, sizes: dict[str, int]
) -> None:
    every = drive(tiny, **sizes).step({0: A, 1: B}, range(60))
    some = drive(tiny, **sizes).step({0: A, 1: B}, [0, 29, 31, 58])
    assert close(some, every[[0, 29, 31, 58]])
    assert drive(tiny, **sizes).step({0: A}, []).shape == (0, 320)


@either
def test_fork_shares_a_beginning_and_neither_sees_the_other(
    tiny: Path, drive: Callable, sizes: dict[str, int]
) -> None:
    expected = drive(tiny, **sizes).step({0: A[:11] + B[5:20]}, range(11, 26))
    whole = drive(tiny, **sizes).step({0: A}, range(30))
    driver = drive(tiny, **sizes)
    driver.step({4: A[:20]})
    driver.fork(4, 5, 11)
    both = driver.step({5: B[5:20], 4: A[20:]}, range(25))
    assert close(both[:15], expected)
    assert close(both[15:], whole[20:])
    driver.release(4)
    driver.truncate(5, 11)
    assert close(driver.step({5: B[5:20]}, range(15)), expected)


@either
def test_truncate_forgets_the_tail(tiny: Path, drive: Callable, sizes: dict[str, int]) -> None:
    whole = drive(tiny, **sizes).step({0: A}, range(30))
    driver = drive(tiny, **sizes)
    driver.step({0: A[:12] + B[3:20]})
    driver.truncate(0, 12)
    assert close(driver.step({0: A[12:]}, range(18)), whole[12:])
    driver.truncate(0, 0)
    assert close(driver.step({0: A}, range(30)), whole)


def test_a_sliding_window_forgets_nothing_that_a_fork_may_need(
    gemma: Path, drive: Callable
) -> None:
    prompt = [1, *(262 + i % 29 for i in range(169))]
    expected = drive(gemma, cache_tokens=256).step({0: prompt[:10] + A}, range(10, 40))
    driver = drive(gemma, cache_tokens=256)
    assert driver.can.max_sequences == 128
    driver.step({0: A * 2})
    driver.step({1: A[:10]})
    driver.step({2: prompt})
    driver.release(1)
    # fewer empty cells at the front than tokens: here llama.cpp would reuse cells of sequence 2
    driver.step({0: A[:14]})
    driver.fork(2, 3, 10)
    driver.release(2)
    # ggml looks Gemma's gelu up in a table of half precision; another token's logits are 4 away
    assert close(driver.step({3: A}, range(30)), expected, tolerance=2e-3)


def test_a_step_of_more_tokens_than_one_decode_takes(tmp_path: Path, drive: Callable) -> None:
    path = tmp_path / "long.gguf"
    write_gguf(path, tiny_metadata(context_length=4096), tiny_tensors([WeightType.F32]))
    prompt = [1 + i % 300 for i in range(2500)]
    out = [0, 2046, 2047, 2048, 2499]
    sizes = {"cache_tokens": 3072, "max_step_tokens": 2600}
    split = drive(path, **sizes).step({0: prompt}, out)
    small = drive(path, **sizes)
    chunks = [small.step({0: prompt[i : i + 500]}, range(500)) for i in range(0, 2500, 500)]
    assert close(split, np.concatenate(chunks)[out])


@either
def test_a_failed_decode_leaves_the_cache_as_it_was(
    tiny: Path, drive: Callable, sizes: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = drive(tiny, **sizes).step({0: A}, range(30))
    driver = drive(tiny, **sizes)
    driver.step({0: A[:10]})
    batch = driver.backend._batch
    monkeypatch.setattr(batch, "capacity", 8)
    decode, calls = batch.decode, []

    def second_call_fails(*arguments: object) -> int:
        calls.append(arguments)
        return -1 if len(calls) == 2 else decode(*arguments)

    monkeypatch.setattr(batch, "decode", second_call_fails)
    with pytest.raises(RowsFailed):
        driver.step({0: A[10:], 1: B})
    monkeypatch.undo()
    assert len(calls) == 2
    assert close(driver.step({0: A[10:]}, range(20)), whole[10:])


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"tokens": np.array([5, 320, 6, 7], np.int32)}, (0,)),
        ({"tokens": np.array([5, 6, 7, -1], np.int32)}, (1,)),
        ({"seq": np.array([0, 256], np.int32)}, (1,)),
        ({"seq": np.array([-1, 1], np.int32)}, (0,)),
        ({"past": np.array([9, 0], np.int32)}, (0,)),
        ({"seq": np.array([0, 2], np.int32)}, (1,)),  # nothing is reserved for 2
    ],
)
def test_bad_rows_fail_alone_and_change_nothing(
    tiny: Path, drive: Callable, change: dict[str, np.ndarray], rows: tuple[int, ...]
) -> None:
    driver = drive(tiny)
    driver.step({0: A[:10]})
    assert driver.backend.reserve(0, 12) and driver.backend.reserve(1, 2)
    good = driver.make_step({0: [5, 6], 1: [7, 8]})
    with pytest.raises(RowsFailed) as failed:
        driver.backend.step(replace(good, **change))
    assert failed.value.rows == rows
    expected = drive(tiny).step({0: [*A[:10], 5, 6]})
    assert close(driver.backend.step(good).numpy()[:1], expected)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"out": np.array([1, 0], np.int32)}, ValueError),
        ({"out": np.array([4], np.int32)}, ValueError),
        ({"out": np.array([-1], np.int32)}, ValueError),
        ({"seq": np.array([0, 0], np.int32)}, ValueError),
        ({"n": np.array([1, 2], np.int32)}, ValueError),
        ({"n": np.array([0, 4], np.int32)}, ValueError),
        ({"tokens": np.ones(513, np.int32), "n": np.array([256, 257], np.int32)}, Unsupported),
        ({"positions": np.zeros((3, 4), np.int32)}, Unsupported),
        ({"adapter": np.array([0, 1], np.int32)}, Unsupported),
    ],
)
def test_a_malformed_step_is_refused_before_llama_cpp_sees_it(
    tiny: Path, drive: Callable, change: dict[str, np.ndarray], error: type[Exception]
) -> None:
    driver = drive(tiny)
    assert driver.backend.reserve(0, 300) and driver.backend.reserve(1, 300)
    good: Step = driver.make_step({0: [5, 6], 1: [7, 8]})
    with pytest.raises(error):
        driver.backend.step(replace(good, **change))
    assert close(driver.backend.step(good).numpy(), drive(tiny).step({0: [5, 6], 1: [7, 8]}))


def test_a_full_cache_refuses_and_serves_again_after_a_release(tiny: Path, drive: Callable) -> None:
    driver = drive(tiny, cache_tokens=256)
    assert driver.can.cache_tokens == 256
    for seq in range(8):
        driver.step({seq: [1] * 32})
    assert driver.backend.stats().cache_tokens_used == 256
    assert not driver.backend.reserve(8, 1)
    driver.fork(0, 8, 32)  # takes no cell
    assert not driver.backend.reserve(8, 33)
    driver.release(3)
    assert driver.step({8: A[:30]}).shape == (1, 320)
    assert not driver.backend.reserve(9, 3)
    for seq in range(9):
        driver.release(seq)
    assert driver.backend.stats().cache_tokens_used == 0
    driver.step({9: [1] * 256})


def test_room_that_is_reserved_is_really_there(tiny: Path, drive: Callable) -> None:
    """Random use at the brim of the cache never makes llama_decode run out of cells."""
    driver = drive(tiny, cache_tokens=256)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(400):
        seq, other = rng.integers(0, 12, 2).tolist()
        match rng.integers(0, 5):
            case 0 if not driver.held[other] and seq != other:
                driver.release(other)  # drops what a refused step left reserved
                driver.fork(seq, other, int(rng.integers(0, driver.held[seq] + 1)))
            case 1:
                driver.truncate(seq, int(rng.integers(0, driver.held[seq] + 1)))
            case 2 if rng.random() < 0.3:
                driver.release(seq)
            case _:
                n = min(int(rng.integers(1, 40)), 256 - driver.held[seq])
                if n and driver.backend.reserve(seq, driver.held[seq] + n):
                    driver.step({seq: [1] * n})
                else:
                    refused += 1
    assert refused > 10


def test_warm_up_leaves_nothing_behind(tiny: Path, drive: Callable) -> None:
    driver = drive(tiny)
    driver.backend.warm_up(lambda *report: None)
    assert driver.backend.stats().cache_tokens_used == 0
    assert close(driver.step({0: A}), drive(tiny).step({0: A}))


def test_ids_and_lengths_outside_the_limits_are_errors(tiny: Path, drive: Callable) -> None:
    backend = drive(tiny, max_sequence_tokens=64).backend
    for bad in (-1, 256):
        with pytest.raises(ValueError, match="no sequence"):
            backend.reserve(bad, 1)
    with pytest.raises(ValueError, match="more than a sequence"):
        backend.reserve(0, 65)
    with pytest.raises(ValueError, match="holds 0 tokens"):
        backend.fork(0, 1, 1)
    with pytest.raises(ValueError, match="holds 0 tokens"):
        backend.truncate(0, 1)
    backend.release(0)
