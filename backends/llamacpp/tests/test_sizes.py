"""Sizes that nobody chose are modest, and a sequence that cannot fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from tgi_backend_llamacpp.gguf import GgufArray, GgufHeader, read_model
from tgi_backend_llamacpp.options import CacheType, FlashAttention, Options, parse_options
from tgi_backend_llamacpp.sizes import Sizes, cache_bytes_per_token, choose_sizes

from tgi_core.contract import DType, LoadRequest, ModelFiles, ModelFormat
from tgi_core.errors import DoesNotFit, UsageError

GIB = 1 << 30


def request(**fields: object) -> LoadRequest:
    model = ModelFiles(reference="m", path=Path("m.gguf"), format=ModelFormat.GGUF)
    return LoadRequest(model=model, **fields)


def sizes(
    free: int = 64 * GIB, per_token: float = 131072, streams: bool = True, **fields: object
) -> Sizes:
    return choose_sizes(
        request(**fields),
        bytes_per_token=per_token,
        trained_tokens=8192,
        available_bytes=free,
        most_sequences=128,
        streams_allowed=streams,
    )


def test_each_sequence_has_a_stream_where_streams_can_be_long_enough() -> None:
    assert sizes(per_token=23040) == Sizes(
        max_rows=16,
        num_streams=20,
        max_sequence_tokens=4608,
        max_step_tokens=512,
        cache_tokens=20 * 4608,
    )
    assert sizes(per_token=1).max_sequence_tokens == 8192
    assert sizes(per_token=1, max_rows=1000).num_streams == 128
    assert sizes(max_sequence_tokens=700, max_rows=4).num_streams == 8
    assert sizes(max_sequence_tokens=700, max_rows=4).max_sequence_tokens == 700
    assert sizes(cache_tokens=20 * 8192).cache_tokens == 20 * 8192


def test_one_pool_serves_longer_sequences_than_streams_could() -> None:
    assert sizes(per_token=23040, free=6 * GIB).num_streams == 0
    assert sizes(per_token=23040, max_sequence_tokens=8192).num_streams == 0
    assert sizes(per_token=1, streams=False).num_streams == 0
    assert sizes(cache_tokens=20 * 4095).num_streams == 0


def test_a_pool_is_what_the_rows_use_within_two_gib_and_a_quarter_of_what_is_free() -> None:
    assert sizes() == Sizes(
        max_rows=8,
        num_streams=0,
        max_sequence_tokens=8192,
        max_step_tokens=512,
        cache_tokens=12288,
    )
    assert sizes(max_rows=64).cache_tokens == 16384
    assert sizes(free=4 * GIB).cache_tokens == 8192
    assert sizes(free=2 * GIB).max_sequence_tokens == 4096
    assert sizes(per_token=1, max_rows=2, streams=False).cache_tokens == 8192
    assert sizes(max_rows=1000).max_rows == 128


def test_a_length_that_was_asked_for_is_served_or_refused() -> None:
    assert sizes(max_sequence_tokens=32768).cache_tokens == 32768
    assert sizes(max_sequence_tokens=100, cache_tokens=100).cache_tokens == 256
    with pytest.raises(DoesNotFit, match="4096 MiB"):
        sizes(max_sequence_tokens=32768, free=8 * GIB)
    with pytest.raises(DoesNotFit, match="1024 tokens does not hold"):
        sizes(max_sequence_tokens=2048, cache_tokens=1024)
    with pytest.raises(DoesNotFit):
        sizes(free=0)


def test_bytes_of_a_token_follow_the_heads_and_the_type_of_the_cache(smollm: Path) -> None:
    options = Options(num_threads=1)
    assert cache_bytes_per_token(read_model(smollm), options) == 30 * 3 * 128 * 2
    header = GgufHeader(
        {
            "general.architecture": "x",
            "x.block_count": 2,
            "x.embedding_length": 64,
            "x.attention.head_count": 4,
            "x.attention.head_count_kv": GgufArray(5, 2, (1, 3)),
            "x.attention.key_length": 32,
        },
        {},
    )
    small = Options(num_threads=1, type_v=CacheType.Q8_0)
    assert cache_bytes_per_token(header, small) == 4 * (32 * 16 + 16 * 8.5) / 8


def test_options_are_read_and_unknown_ones_refused() -> None:
    given = {"n_ubatch": "64", "type_k": "q8_0", "flash_attn": "on", "n_gpu_layers": "3"}
    options = parse_options(request(options=given, num_threads=3))
    assert options == Options(
        n_ubatch=64,
        type_k=CacheType.Q8_0,
        flash_attn=FlashAttention.ON,
        n_gpu_layers=3,
        num_threads=3,
    )
    assert parse_options(request(device="cpu")).n_gpu_layers == 0
    assert parse_options(request()).num_threads >= 1


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"options": {"n_ubtach": "64"}}, "no option 'n_ubtach'"),
        ({"options": {"n_ubatch": "0"}}, "from 1 on, not '0'"),
        ({"options": {"n_ubatch": "many"}}, "not 'many'"),
        ({"options": {"type_k": "q9"}}, "f32, f16, q4_0, q8_0, bf16"),
        ({"options": {"n_gpu_layers": "1"}, "device": "cpu"}, "not with device cpu"),
        ({"device": "tpu"}, "'tpu'"),
        ({"dtype": DType.FLOAT16}, "leave dtype"),
        ({"quantize": "awq"}, "leave dtype and quantize"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(fields: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_options(request(**fields))
