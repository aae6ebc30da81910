"""Compiles the kernels for GPUs that are not here: Triton brings the compilers.

    python -m tests.compiled_kernels ARCH ...

An architecture is sm_90, sm_80, gfx942 and so on. Prints for each kernel what it takes of the chip.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import triton
from tgi_backend_cuda.kernels.begin import angles, look_up
from tgi_backend_cuda.kernels.decode import turn_store_and_attend
from tgi_backend_cuda.kernels.fused import rms_norm, rotate, silu_and_multiply
from tgi_backend_cuda.kernels.greedy import find_best, find_in_parts
from tgi_backend_cuda.kernels.groups import multiply_groups, multiply_groups_by_some, unpack_groups
from tgi_backend_cuda.kernels.paged import attend, combine
from tgi_backend_cuda.kernels.store import rotate_and_store, store
from tgi_backend_cuda.kernels.stream import choose, multiply, multiply_chosen
from tgi_backend_cuda.tiles import Architecture, nvidia
from tgi_backend_rocm.chip import describe
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

POINTERS = {
    "attend": (
        "out query keys values sinks slopes".split(),
        "part_out part_high part_total".split(),
        "tables table_width begins lengths".split(),
    ),
    "look_up": ([], [], "tokens sampled".split()),
    "find_in_parts": ("kept logits".split(), ["part_high"], ["part_at"]),
    "find_best": ([], ["part_high"], "chosen part_at".split()),
    "angles": ("cos sin".split(), ["frequencies"], []),
    "combine": (["out"], "part_out part_high part_total".split(), []),
    "store": ("keys values key value".split(), [], ["cells"]),
    "rms_norm": ("out x weight".split(), [], []),
    "silu_and_multiply": (["out", "x"], [], []),
    "rotate_and_store": ("x cos sin keys values".split(), [], ["cells"]),
    "turn_store_and_attend": (
        "out x cos sin keys values sinks".split(),
        "part_out part_high part_total".split(),
        "arrived cells tables table_width lengths".split(),
    ),
    "rotate": ("x cos sin".split(), [], []),
    "choose": ("logits x weight".split(), ["scores"], []),
    "multiply_chosen": ("out x weight".split(), [], []),
    "multiply": ("out x weight bias addend norm".split(), [], []),
    "multiply_groups": ("out x scales zeros".split(), [], []),
    "multiply_groups_by_some": ("out x scales zeros".split(), [], []),
    "unpack_groups": ("out scales zeros".split(), [], []),
}
"""Arguments that point to numbers of the model's dtype, to float32 and to int32."""
LONG = {
    "look_up": ["out"],
    "angles": ["positions"],
    "choose": ["chosen"],
    "multiply_chosen": ["chosen"],
}
"""And to int64."""
BYTES = ["numbers"]
"""And to uint8."""
FLOAT8 = ("sm_89", "sm_90", "gfx950")
FLOATS = "scaling softcap value_scale key_factor value_factor limit epsilon middle".split()


def architecture(name: str) -> tuple[Architecture, GPUTarget]:
    if name.startswith("gfx"):
        chip = describe(name, name, 304, 1 << 37)
        assert chip is not None, name
        return chip.architecture, GPUTarget("hip", name, 64 if name.startswith("gfx9") else 32)
    number = int(name.removeprefix("sm_"))
    return nvidia(divmod(number, 10), 132), GPUTarget("cuda", number, 32)


def variants(arch: Architecture) -> Iterator[tuple[str, Any, dict[str, Any], dict[str, Any]]]:
    """Name, kernel, constants and launch options."""
    for dim, group, decode, split, extra in (
        (128, 4, True, True, {}),
        (128, 4, False, False, {}),
        (64, 4, False, True, {"WINDOW": 4096, "SINKS": True}),
        (256, 2, False, False, {"SOFTCAP": True}),
        (80, 1, True, False, {"SLOPES": True}),
    ):
        pad = triton.next_power_of_2(dim)
        tile = arch.tile(decode=decode, dim=pad, itemsize=2)
        tokens = 1 if decode else max(1, tile.rows // group)
        constants = dict(
            DECODE=decode, SPLIT=split, WINDOW=0, SOFTCAP=False, SINKS=False, SLOPES=False,
            GROUP=group, KV_HEADS=8, BLOCK_TOKENS=16, KEY_DIM=dim, KEY_PAD=pad, VALUE_DIM=dim,
            VALUE_PAD=pad, TILE_TOKENS=tokens,
            TILE_ROWS=max(16, triton.next_power_of_2(tokens * group)), KEYS=tile.keys,
            EARLY=arch.early,
        )  # fmt: skip
        options = dict(num_warps=tile.warps, num_stages=tile.stages, **arch.launch)
        options |= dict(arch.extra)
        yield f"attend {dim} decode={decode}", attend, constants | extra, options
    for dim, extra in ((64, {}), (128, {"WINDOW": 4096})):
        if (tile := arch.joined_tile(dim=dim, itemsize=2)) is None:
            break
        constants = dict(
            SCALED=False, WINDOW=0, SOFTCAP=False, SINKS=False, GROUP=4, GROUP_PAD=4,
            TILE_ROWS=16, KV_HEADS=8, BLOCK_TOKENS=16, DIM=dim, DIM_PAD=dim, KEYS=tile.keys,
            PARTS=1024 // dim, EARLY=arch.early,
        )  # fmt: skip
        options = dict(num_warps=tile.warps, num_stages=tile.stages, **arch.launch)
        options |= dict(arch.extra)
        yield f"turn, store and attend {dim}", turn_store_and_attend, constants | extra, options
    early, launch = dict(EARLY=arch.early), arch.launch
    heads = dict(KV_HEADS=8, HEADS_PAD=8, KEY_DIM=128, KEY_PAD=128, VALUE_DIM=128, VALUE_PAD=128)
    yield "store", store, heads | early | dict(SCALED=False), dict(num_warps=4, **launch)
    parts = dict(SPLITS=32, VALUE_DIM=128, VALUE_PAD=128)
    yield "combine", combine, early | parts, dict(num_warps=4, **launch)
    yield "norm", rms_norm, early | dict(SIZE=4096, PAD=4096), dict(num_warps=8, **launch)
    yield "silu", silu_and_multiply, dict(SIZE=14336, COLUMNS=1024), dict(num_warps=4)
    rotary = dict(DIM=128, HEADS=40, HEADS_PAD=64, HALF_PAD=64)
    yield "rotate", rotate, early | rotary, dict(num_warps=4, **launch)
    places = dict(
        SCALED=False, DIM=128, DIM_PAD=128, HALF_PAD=64, HEADS=32, HEADS_PAD=32, KV_HEADS=8,
        KV_PAD=8,
    )  # fmt: skip
    yield "rotate and store", rotate_and_store, early | places, dict(num_warps=4, **launch)
    yield "look up", look_up, dict(SIZE=1024), dict(num_warps=4)
    yield "find in parts", find_in_parts, early | dict(BLOCK=2048), dict(num_warps=4, **launch)
    yield "find best", find_best, early | dict(PARTS=64), dict(num_warps=1, **launch)
    yield "angles", angles, dict(HALF=64, HALF_PAD=64), dict(num_warps=1)
    for halves in (True, False):
        columns, size = (2048, 128) if halves else (4096, 4096)
        numbers = dict(
            COLUMNS=columns, GROUPS=4096 // size, SIZE=size, HALVES=halves, ZEROS=halves,
            FLOAT8=not halves and arch.name in FLOAT8,
        )  # fmt: skip
        kind = f"{4 if halves else 8} bits"
        yield f"unpack {kind}", unpack_groups, numbers | dict(BLOCK=columns), dict(num_warps=4)
        one = dict(PIECE=128, PIECES_PAD=columns // 128, ROWS=4)
        options = dict(num_warps=4, **launch)
        yield f"multiply {kind}", multiply_groups, early | numbers | one, options
        some = dict(PIECE=128, TOKENS=16, ROWS=32)
        options = dict(num_warps=2, num_stages=4, **launch)
        yield f"multiply {kind} by some", multiply_groups_by_some, early | numbers | some, options
    if (stream := arch.stream) is not None:
        product = dict(
            SIZE=4096, PAD=4096, TOKENS=1, ROWS=stream.program(4096, 1)[0], NORMED=True,
            BIASED=False, LOOPED=False,
        )  # fmt: skip
        options = dict(num_warps=stream.warps, **launch)
        for paired in (False, True):
            kinds = dict(PAIRED=paired, ADDED=not paired)
            yield f"multiply, paired={paired}", multiply, early | product | kinds, options
        product = dict(
            SIZE=4096, PAD=4096, ROWS=stream.program(4096, 2)[0], SHARED=2, PAIRED=True
        )  # fmt: skip
        yield "multiply chosen", multiply_chosen, early | product, options
        product = dict(SIZE=4096, PAD=4096, EXPERTS=8, EXPERTS_PAD=8, CHOICES=2)
        yield "choose", choose, early | product, dict(num_warps=8, **launch)


def compile_kernel(
    kernel: Any, constants: dict[str, Any], options: dict[str, Any], target: GPUTarget
) -> Any:
    half, single, whole = POINTERS[kernel.__name__]
    types = {
        **dict.fromkeys(half, "*bf16"),
        **dict.fromkeys(single, "*fp32"),
        **dict.fromkeys(whole, "*i32"),
        **dict.fromkeys(LONG.get(kernel.__name__, ()), "*i64"),
        **dict.fromkeys(BYTES, "*u8"),
        **dict.fromkeys(FLOATS, "fp32"),
    }
    signature = {
        name: "constexpr" if name in constants else types.get(name, "i32")
        for name in kernel.arg_names
    }
    # torch's memory begins at multiples of 16, and so does every stride of a head
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name.endswith("_stride")
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places, attrs=aligned)
    return triton.compile(source, target=target, options=options)


def main() -> int:
    for name in sys.argv[1:]:
        arch, target = architecture(name)
        for what, kernel, constants, options in variants(arch):
            made = compile_kernel(kernel, constants, options, target)
            print(f"{name} {what}: {made.metadata.shared} bytes shared", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
