"""Tiles fit the chip, and keys are split when there are too few rows for it."""

import pytest
from tgi_backend_cuda.tiles import MOST_SPLITS, nvidia

SHARED_BYTES = {(7, 5): 64 << 10, (8, 0): 163 << 10, (8, 9): 99 << 10, (9, 0): 227 << 10}


@pytest.mark.parametrize("capability", SHARED_BYTES)
@pytest.mark.parametrize("decode", [True, False])
@pytest.mark.parametrize("dim", [16, 64, 128, 256])
@pytest.mark.parametrize("itemsize", [2, 4])
def test_queries_keys_and_values_of_all_stages_fit_the_shared_memory(
    capability, decode, dim, itemsize
):
    tile = nvidia(capability, 100).tile(decode=decode, dim=dim, itemsize=itemsize)
    used = (tile.rows + 2 * tile.keys * tile.stages) * dim * itemsize
    assert used <= SHARED_BYTES[capability]
    assert tile.rows >= 16 and tile.keys >= 16


def test_one_row_is_split_over_the_chip_and_many_rows_are_not():
    hopper = nvidia((9, 0), 132)
    splits = [hopper.splits(tiles=n, kv_heads=8) for n in range(1, 600)]
    assert splits[0] == MOST_SPLITS
    assert splits[-1] == 1
    assert splits == sorted(splits, reverse=True)


def test_programs_of_products_hold_as_many_weights_whatever_a_row_is_long():
    stream = nvidia((9, 0), 132).stream
    for size in (1024, 2048, 4096, 16384):
        for parts in (1, 2):
            rows, warps = stream.program(size, parts)
            assert rows * parts * size // warps in (4096, 8192)
