"""Tests and measures the CUDA backend on this machine's GPU: what `make gpu` runs.

    python -m tests.bench.gpu [PART ...] [--seconds 560] [--out FOLDER] [--commit HASH]

Parts: tests, report, 8b, 1b, mixtral, ranks, warm, peer, tiles, bits, ways; all of them without one
named. Each runs in a process of its own that is ended when its time is up, and the page is written
anew after each, so that whatever comes in between, what was measured is there. Nothing is
installed, and nothing downloaded but by the package `kernels`, if that is there.

What it proves: that the kernels, compiled, compute attention, and those of others products with
weights in few bits; that the backend conforms, and gives transformers' logits for every family,
images included; that graphs, fusion and two steps in flight change no token; that a step without
memory is refused and the next one runs; and how far decode, prefill, batches, host work and idle
are from what this GPU's own copy and matrix product allow.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

ROOT = Path(__file__).parents[3]
_TESTS = [
    *("-m", "pytest", "-vv", "-m", "not slow and not long", "-W", "default", "--tb=short"),
    *("-n", "14", "--dist", "worksteal", "-p", "no:cacheprovider"),
    *("-p", "tests.bench.gpu.failures"),
    *(
        f"backends/cuda/tests/{name}.py"
        for name in ("test_kernels", "test_fused", "test_few_bits", "test_on_gpu")
    ),
]
_TEST_SECONDS = 260
_REPORT_SECONDS = 60
_HEADER = ["| what | ours | limit or peer | ratio | goal |", "|---|--:|--:|--:|--:|"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*")
    parser.add_argument("--seconds", type=float, default=560.0)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements")
    parser.add_argument("--commit", default="")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        from tests.bench.gpu.parts import run

        run(args.only)
        return 0
    import torch

    from tests.bench.gpu.parts import PARTS

    if not torch.cuda.is_available():
        parser.exit(1, f"torch {torch.__version__} finds no GPU here\n")
    commands = {"tests": _TESTS, "report": ["-m", "tests.bench.gpu.report", str(args.out)]}
    most = {
        "tests": _TEST_SECONDS,
        "report": _REPORT_SECONDS,
        **{name: seconds for name, (_, seconds) in PARTS.items()},
    }
    unknown = sorted(set(args.parts) - set(most))
    if unknown:
        parser.error(f"there is no part {unknown[0]}; there are: {', '.join(most)}")
    deadline = time.monotonic() + args.seconds
    outputs: dict[str, str] = {}
    failed = False
    for name in args.parts or most:
        left = min(most[name], deadline - time.monotonic())
        if left < 15:
            outputs[name] = "not run: the time was up"
            continue
        command = commands.get(name, ["-u", "-m", "tests.bench.gpu", "--only", name])
        print(f"== {name}, at most {left:.0f} s", flush=True)
        began = time.monotonic()
        outputs[name], ended_well = run_part([sys.executable, *command], left)
        failed |= not ended_well
        print(f"== {name} took {time.monotonic() - began:.0f} s", flush=True)
        write_page(args.out, outputs, args.commit)
    print(f"page: {page_path(args.out)}")
    return int(failed)


def run_part(command: list[str], seconds: float) -> tuple[str, bool]:
    """What it printed, which is shown as it comes, and whether it ended well and in time."""
    lines: list[str] = []
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        ["timeout", "-k", "5", f"{seconds:.0f}", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip())
    if time.monotonic() >= deadline - 0.5:
        lines.append(f"ended after {seconds:.0f} s")
    return "\n".join(lines[-200:]), process.returncode == 0


def page_path(folder: Path) -> Path:
    return folder / f"{date.today().isoformat()}-gpu.md"


def write_page(folder: Path, outputs: dict[str, str], commit: str) -> None:
    import torch
    import transformers
    import triton

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    lines = [
        f"# {date.today().isoformat()}, {device}",
        "",
        f"Commit {commit or 'unknown'}; torch {torch.__version__}, Triton {triton.__version__}, "
        f"transformers {transformers.__version__}. Command: `make gpu`. Models have the shapes of "
        "Llama 3.1 8B, Llama 3.2 1B and Mixtral 8x7B, with random weights in bfloat16. Limits are "
        "what the copy bandwidth and the matrix rate, measured in the same process, allow.",
        "",
    ]
    rows = [line for text in outputs.values() for line in text.splitlines() if line[:1] == "|"]
    if rows:
        lines += [*_HEADER, *rows, ""]
    for name, text in outputs.items():
        rest = [line for line in text.splitlines() if line[:1] != "|"]
        lines += [f"## {name}", "", "```", *rest, "```", ""]
    folder.mkdir(parents=True, exist_ok=True)
    page_path(folder).write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
