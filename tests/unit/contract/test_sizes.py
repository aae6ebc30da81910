"""How sizes are chosen that nobody asked for."""

from pathlib import Path

import pytest

from tgi_core.contract import LoadRequest, ModelFiles, ModelFormat, choose_sizes
from tgi_core.errors import DoesNotFit

GIB = 1 << 30
FILES = ModelFiles(reference="m", path=Path("m"), format=ModelFormat.SAFETENSORS)


def sizes(cell_bytes=1 << 16, free_bytes=64 * GIB, longest=8192, **wishes):
    return choose_sizes(
        LoadRequest(model=FILES, **wishes),
        cell_bytes=cell_bytes,
        block_tokens=16,
        free_bytes=free_bytes,
        longest=longest,
    )


def test_at_most_two_gib_are_taken():
    assert sizes().num_blocks * 16 * (1 << 16) == 2 * GIB


def test_at_most_a_quarter_of_memory_is_taken():
    assert sizes(free_bytes=4 * GIB).num_blocks * 16 * (1 << 16) == GIB


def test_no_more_is_taken_than_all_rows_can_fill():
    assert sizes(max_rows=2, max_sequence_tokens=100).num_blocks == 2 * 7


def test_sequences_are_as_long_as_the_model_and_the_cache_allow():
    assert sizes().max_sequence_tokens == 8192
    assert sizes(free_bytes=GIB).max_sequence_tokens == 4096
    assert sizes(longest=None).max_sequence_tokens == 2 * GIB >> 16


def test_a_step_holds_every_row():
    assert sizes().max_step_tokens == 512
    assert sizes(max_rows=1000).max_step_tokens == 1000


def test_memory_for_less_than_a_conversation_is_refused_with_numbers():
    with pytest.raises(DoesNotFit, match=r"1024 tokens \(64 MiB of 256 MiB free\).*2048"):
        sizes(free_bytes=GIB // 4)


def test_a_model_made_for_short_sequences_needs_no_more():
    assert sizes(free_bytes=GIB // 4, longest=512).max_sequence_tokens == 512


def test_a_tiny_cache_that_was_asked_for_is_given():
    assert sizes(cache_tokens=33).num_blocks == 3
    assert sizes(cache_tokens=33).max_sequence_tokens == 48
