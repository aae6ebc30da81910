"""Importing it lets torch.distributed have groups of the kind "hccl"."""

import os

from tests.simulators.hccl import register


def initialize_distributed_hpu(
    world_size: int | None = None, rank: int | None = None, local_rank: int | None = None
) -> tuple[int, int, int]:
    assert world_size is not None and rank is not None and local_rank is not None
    os.environ.update(WORLD_SIZE=str(world_size), RANK=str(rank), LOCAL_RANK=str(local_rank))
    return world_size, rank, local_rank


register()
