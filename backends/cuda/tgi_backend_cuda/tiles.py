"""Sizes of tiles and launches, by architecture. Figures and nothing else.

The Hopper rows were the fastest of many on an H200 (docs/measurements); the others are reasoned
from what the compiler says that they take of a chip (`python -m tests.compiled_kernels sm_80`).
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
class Stream:
    """How products of a few tokens are computed; see `kernels.stream`."""

    most_tokens: int
    """Of more tokens a library's product is as fast."""
    numbers: int
    """Weights that one program holds,"""
    warps: int
    """with which it says how many are under way at once."""
    registers: int | None = None
    """Most of a thread,"""
    resident_warps: int = 16
    """with which a multiprocessor has room for so many warps at once."""
    rounds: float = 2.5
    """A kernel with more programs than are resident at once, so many times over, has no more than
    those, which go on from one part of the weights to the next."""
    long_factor: int = 1
    """Programs for inputs of more than 8,192 numbers are so many times as large."""

    def program(self, size: int, parts: int) -> tuple[int, int]:
        """Outputs of a program, which reads `parts` rows of `size` weights for each, and warps."""
        factor = self.long_factor if size > _LONG else 1
        return max(1, self.numbers * factor // (size * parts)), self.warps * factor


_LONG = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What launches depend on."""

    name: str
    multiprocessors: int
    decode: Tile
    """For rows of one token, 128 numbers a head, 2 bytes a number."""
    prefill: Tile
    """For longer rows, likewise."""
    stream: Stream | None = None
    """None leaves all products to a library."""
    early: bool = False
    """Whether a kernel may be launched before the one before it has ended, and wait for it."""
    extra: tuple[tuple[str, int], ...] = ()
    """Options that only this vendor's Triton has."""
    joined: Tile | None = None
    """For a few short rows of one token, 128 numbers a head, 2 bytes a number, which one kernel
    rotates, stores and attends; None: three kernels do."""
    programs: int = 4
    """Keys of a tile are read in parts until each multiprocessor has so many programs: about as
    many as run at once, for what is read in parts must be added up."""

    @property
    def launch(self) -> dict[str, bool]:
        """Options of every kernel's launch."""
        return {"launch_pdl": True} if self.early else {}

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

    def joined_tile(self, *, dim: int, itemsize: int) -> Tile | None:
        """The same where one kernel does all: its warps grow with the heads."""
        if self.joined is None:
            return None
        warps = self.joined.warps * dim * itemsize // 256
        return replace(self.joined, warps=min(8, max(1, warps)))

    @property
    def most_programs(self) -> int:
        """Rows times KV heads whose keys are read in parts are no more than this."""
        return self.multiprocessors * self.programs

    def splits(self, *, tiles: int, kv_heads: int) -> int:
        """In how many parts the keys of a tile are read, so that the whole chip is at work: a power
        of two.
        """
        wanted = self.most_programs // (tiles * kv_heads)
        return min(MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))


MOST_SPLITS = 32

_HOPPER = (
    Tile(rows=16, keys=64, warps=2, stages=3),
    Tile(rows=128, keys=64, warps=4, stages=3),
)
_HOPPER_JOINED = Tile(rows=16, keys=32, warps=2, stages=3)
_HOPPER_STREAM = Stream(most_tokens=4, numbers=1 << 14, warps=4, registers=128, long_factor=2)
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
    hopper = capability[0] == 9
    return Architecture(
        name=f"sm_{capability[0]}{capability[1]}",
        multiprocessors=multiprocessors,
        decode=decode,
        prefill=prefill,
        stream=_HOPPER_STREAM if hopper else None,
        early=hopper,
        joined=_HOPPER_JOINED if hopper else None,
    )


def candidates(tile: Tile) -> Iterator[Tile]:
    """Neighbours of a tile that are worth a measurement."""
    for keys in (32, 64, 128):
        for warps in (4, 8):
            for stages in (tile.stages - 1, tile.stages, tile.stages + 2):
                yield replace(tile, keys=keys, warps=warps, stages=stages)
