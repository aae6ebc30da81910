"""What core costs a step: milliseconds and microseconds a row, on a device that takes no time.

    python -m tests.bench.host_work --streams 256
    python -m tests.bench.host_work --streams 1 16 64 256 --wishes sampled --churn
    python -m tests.bench.host_work --streams 256 --profile

Counts what happens in the engine process between two steps of a device with two steps in flight:
choosing and building the step, taking in its tokens, and the frame with its events. The model and
the sampler are free, so what a backend does on the host comes on top.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import random
from itertools import count
from time import process_time

import numpy as np

from tests.engines import fake_engine
from tgi_core.contract import (
    HostLogits,
    PendingLogits,
    Request,
    SampledTokens,
    SamplingBatch,
    SamplingParams,
    Step,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine
from tgi_core.ipc.frames import encode_frame
from tgi_core.ipc.messages import StepDone
from tgi_core.testing.fake import FakeBackend, FakeShape

WISHES = {
    "greedy": SamplingParams(),
    "sampled": SamplingParams(temperature=0.8, top_k=40, top_p=0.95),
    "logprobs": SamplingParams(temperature=0.8, logprobs=True),
    "penalties": SamplingParams(temperature=0.8, repetition_penalty=1.1),
}
PROMPT_TOKENS = 64
STEPS = 30
"""In each of the runs, of which the best counts: the machine is shared. For the same reason this is
processor time."""
CHURN_TOKENS = 200
"""Length of answers with --churn: with 256 streams one ends, and one begins, in most steps."""


class Sampled:
    """PendingTokens that are there at once."""

    def __init__(self, tokens: SampledTokens) -> None:
        self.tokens = tokens

    def wait(self) -> SampledTokens:
        return self.tokens


class IdleBackend(FakeBackend):
    """Keeps sequences and blocks, and computes nothing."""

    nothing = HostLogits(np.zeros((0, 0), np.float32))

    def step(self, step: Step) -> PendingLogits:
        self.tables.advance(step.seq, step.n)
        return self.nothing

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> Sampled:  # type: ignore[override]
        num = batch.num_rows
        return Sampled(
            SampledTokens(
                ids=np.full(num, 5, np.int32),
                logprobs=np.zeros(num, np.float32),
                top_ids=np.zeros((num, 0), np.int32),
                top_logprobs=np.zeros((num, 0), np.float32),
            )
        )


class Load:
    """An engine with a number of streams."""

    def __init__(self, streams: int, sampling: SamplingParams, max_new_tokens: int) -> None:
        self.engine: StepEngine = fake_engine(
            EngineLimits(prefix_caching=False),
            IdleBackend(FakeShape(steps_in_flight=2, cache_tokens=1 << 20)),
        )
        self._sampling, self._max_new_tokens = sampling, max_new_tokens
        self._rng, self._names = random.Random(1), count()
        for _ in range(streams):
            self._submit(max_new_tokens if max_new_tokens > CHURN_TOKENS else None)
        for _ in range(20):
            self.turn()

    def turn(self) -> None:
        """What the engine process does in one turn of its loop; whoever ends is followed."""
        events = self.engine.poll(0.01)
        encode_frame(StepDone.of(list(events), None))
        for event in events:
            if isinstance(event, TokenEvent) and event.finish is not None:
                self._submit(self._max_new_tokens)

    def ms_a_step(self) -> float:
        began, before = process_time(), self.engine.stats().steps
        for _ in range(STEPS):
            self.turn()
        return (process_time() - began) / (self.engine.stats().steps - before) * 1e3

    def _submit(self, max_new_tokens: int | None) -> None:
        prompt = tuple(self._rng.randrange(128) for _ in range(PROMPT_TOKENS))
        length = max_new_tokens or self._rng.randint(1, self._max_new_tokens)
        self.engine.submit(
            Request(
                request_id=f"{next(self._names):032x}",
                prompt=prompt,
                sampling=self._sampling,
                stop=StopRule(max_new_tokens=length, eos_token_ids=(2,)),
            )
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, nargs="+", default=[256])
    parser.add_argument("--wishes", choices=WISHES, default="greedy")
    parser.add_argument("--churn", action="store_true", help="answers end, and others begin")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="print where the time goes")
    args = parser.parse_args()
    print("| streams | ms a step | us a row |\n|--:|--:|--:|")
    for streams in args.streams:
        longest = CHURN_TOKENS if args.churn else 3000
        load = Load(streams, WISHES[args.wishes], longest)
        best = min(load.ms_a_step() for _ in range(args.runs))
        print(f"| {streams} | {best:.3f} | {best / streams * 1e3:.2f} |", flush=True)
        if args.profile:
            profile(load)
    return 0


def profile(load: Load) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    load.ms_a_step()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(30)


if __name__ == "__main__":
    raise SystemExit(main())
