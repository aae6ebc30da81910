"""What choosing tokens costs: milliseconds a step, for one thread, by wish and by kind of logits.

    python -m tests.bench.sampler_time --rows 32 --vocabulary 49152

Flat logits are the worst case: no token stands out, so that top-p has to keep most of them. Peaked
ones are what models give: a few tokens hold the mass.
"""

from __future__ import annotations

import argparse
from time import perf_counter

import numpy as np

from tests.sampling_batches import batch_of
from tgi_core.contract import SamplingParams
from tgi_core.sampling.reference import sample

WISHES = {
    "greedy": SamplingParams(),
    "greedy, logprobs, 5 top tokens": SamplingParams(logprobs=True, num_top=5),
    "temperature 1": SamplingParams(temperature=1.0),
    "temperature 0.7": SamplingParams(temperature=0.7),
    "0.7, top-p 0.95": SamplingParams(temperature=0.7, top_p=0.95),
    "0.7, top-p 0.95, logprobs": SamplingParams(temperature=0.7, top_p=0.95, logprobs=True),
    "0.7, top-k 40": SamplingParams(temperature=0.7, top_k=40),
    "0.7, min-p 0.05": SamplingParams(temperature=0.7, min_p=0.05),
    "0.7, typical-p 0.9": SamplingParams(temperature=0.7, typical_p=0.9),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    normal = rng.standard_normal((args.rows, args.vocabulary)).astype(np.float32)
    stands_out = rng.random(normal.shape) < 20 / args.vocabulary
    kinds = {"flat": normal * 0.01, "plain": normal * 2, "peaked": normal * 3 + 15 * stands_out}
    print(f"{args.rows} rows, {args.vocabulary} tokens: median of {args.steps} steps, ms\n")
    print(f"| wish | {' | '.join(kinds)} |\n|---|{'--:|' * len(kinds)}")
    for name, params in WISHES.items():
        medians = [
            median_ms(logits.astype(np.float32), params, args.steps) for logits in kinds.values()
        ]
        print(f"| {name} | {' | '.join(f'{ms:.1f}' for ms in medians)} |", flush=True)
    return 0


def median_ms(logits: np.ndarray, params: SamplingParams, num_steps: int) -> float:
    rng = np.random.default_rng(1)
    times = []
    for _ in range(num_steps + 3):
        batch = batch_of([params] * len(logits), uniform=rng.random(len(logits)))
        rows = logits.copy()
        began = perf_counter()
        sample(rows, batch)
        times.append(perf_counter() - began)
    return float(np.median(times[3:])) * 1e3


if __name__ == "__main__":
    raise SystemExit(main())
