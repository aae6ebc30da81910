"""Sizes of tiles and launches, by architecture. Figures and nothing else.

The Hopper rows are reasoned from its 227 KiB of shared memory and Triton's own tutorials, not yet
measured: `make gpu` times each candidate of `candidates` and prints which is fastest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile:
    """How one program of the attention kernel works."""

    rows: int
    """Queries, over tokens and heads; at least 16."""
    keys: int
    """Keys in one turn of its loop."""
    warps: int
    stages: int
    """Turns of the loop whose keys are under way at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What launches depend on."""

    name: str
    multiprocessors: int
    decode: Tile
    """For rows of one token, 128 numbers a head, 2 bytes a number."""
    prefill: Tile
    """For longer rows, likewise."""
    extra: tuple[tuple[str, int], ...] = ()
    """Options that only this vendor's Triton has."""
    programs_per_multiprocessor: int = 4
    """Keys are split until there are about so many."""

    def tile(self, *, decode: bool, dim: int, itemsize: int) -> Tile:
        """For heads of `dim` numbers (the larger of key and value, padded) of `itemsize` bytes.

        Wide heads and float32 take the same shared memory with fewer keys and queries.
        """
        tile = self.decode if decode else self.prefill
        weight = max(1, dim * itemsize // 256)
        keys = max(16, tile.keys // weight)
        if dim * itemsize <= 128:
            keys = tile.keys * 2
        rows = tile.rows if decode else max(16, tile.rows // weight)
        return replace(tile, rows=rows, keys=keys, stages=1 if weight > 2 else tile.stages)

    def splits(self, *, tiles: int, kv_heads: int) -> int:
        """In how many parts the keys of a tile are read, so that the whole chip is at work."""
        wanted = self.multiprocessors * self.programs_per_multiprocessor // (tiles * kv_heads)
        return max(1, min(MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1)))


MOST_SPLITS = 32

_HOPPER = (
    Tile(rows=16, keys=64, warps=4, stages=4),
    Tile(rows=128, keys=64, warps=8, stages=3),
)
_AMPERE = (
    Tile(rows=16, keys=64, warps=4, stages=3),
    Tile(rows=128, keys=64, warps=8, stages=2),
)
_SMALL = (
    # 100 KiB of shared memory: the consumer chips
    Tile(rows=16, keys=64, warps=4, stages=2),
    Tile(rows=64, keys=64, warps=4, stages=2),
)
_OLD = (
    Tile(rows=16, keys=32, warps=4, stages=1),
    Tile(rows=64, keys=32, warps=4, stages=1),
)


def nvidia(capability: tuple[int, int], multiprocessors: int) -> Architecture:
    """By compute capability."""
    match capability:
        case (9 | 10, _):
            decode, prefill = _HOPPER
        case (8, 0) | (8, 7):
            decode, prefill = _AMPERE
        case (major, _) if major >= 8:
            decode, prefill = _SMALL
        case _:
            decode, prefill = _OLD
    return Architecture(
        name=f"sm_{capability[0]}{capability[1]}",
        multiprocessors=multiprocessors,
        decode=decode,
        prefill=prefill,
    )


def candidates(tile: Tile) -> Iterator[Tile]:
    """Neighbours of a tile that are worth a measurement."""
    for keys in (32, 64, 128):
        for warps in (4, 8):
            for stages in (2, 3, 4):
                yield replace(tile, keys=keys, warps=warps, stages=stages)
