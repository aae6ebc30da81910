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
    for decode in (True, False):
        splits = [hopper.splits(tiles=n, kv_heads=8, decode=decode) for n in range(1, 600)]
        assert splits[0] == MOST_SPLITS
        assert splits[-1] == 1
        assert splits == sorted(splits, reverse=True)


@pytest.mark.parametrize("rows", [16, 64, 128, 256])
def test_the_last_round_of_a_decode_step_is_a_small_part(rows):
    """Three programs run at once on each of 132 multiprocessors."""
    splits = nvidia((9, 0), 132).splits(tiles=rows, kv_heads=8, decode=True)
    rounds = rows * 8 * splits / (3 * 132)
    assert rounds / -(-rounds // 1) > 0.9
