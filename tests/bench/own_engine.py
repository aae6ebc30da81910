"""Our engine beside OpenVINO's own (openvino-genai), both in this process, without any server.

    pip install openvino-genai optimum-intel
    optimum-cli export openvino --model FOLDER --task text-generation-with-past \\
        --weight-format fp16 EXPORTED
    python -m tests.bench.own_engine FOLDER EXPORTED --rounds 3

Both compute in one type, `--dtype`, and get the same prompts of token ids, in the lengths of
`tgi bench`, in a closed loop. They take turns within seconds; a ratio is the median of the rounds'.
`openvino-genai` may be in another environment of the same Python: add its site-packages to
PYTHONPATH behind this one's.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence

import numpy as np
import openvino
import openvino_genai  # type: ignore[import-not-found]
from tgi_backend_openvino.device import PRECISIONS

from tests.bench.compare import REQUESTS
from tests.bench.step_time import closed_loop, request, started_engine
from tgi_core.contract import DType, Request

Loop = Callable[[Sequence[Request], int], int]
"""Runs requests, so many at once: the number of their output tokens."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("exported")
    parser.add_argument("--streams", default="1,4,16,32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    args = parser.parse_args()
    loops = {
        "openvino-genai": theirs(args.exported, args.dtype),
        "ours": ours(args.folder, args.dtype),
    }
    print("| streams | openvino-genai, tokens/s | ours | ratio, each round | median |")
    print("|--:|--:|--:|---|--:|")
    for streams in [int(text) for text in args.streams.split(",")]:
        rates: dict[str, list[float]] = {name: [] for name in loops}
        for seed in range(args.rounds):
            rng = random.Random(f"{streams} {seed}")
            requests = [request(i, rng, 0.0) for i in range(REQUESTS.get(streams, 2 * streams))]
            for name, loop in loops.items():
                began = time.perf_counter()
                tokens = loop(requests, streams)
                rates[name].append(tokens / (time.perf_counter() - began))
        ratios = [own / other for other, own in zip(*rates.values(), strict=True)]
        medians = " | ".join(f"{statistics.median(rate):.1f}" for rate in rates.values())
        each = ", ".join(f"{ratio:.2f}" for ratio in ratios)
        print(f"| {streams} | {medians} | {each} | {statistics.median(ratios):.2f} |", flush=True)
    return 0


def ours(folder: str, dtype: str) -> Loop:
    """The whole engine: scheduler, sampler and backend."""
    engine = started_engine(folder, "openvino", dtype)
    return lambda requests, streams: closed_loop(engine, requests, streams)


def theirs(exported: str, dtype: str) -> Loop:
    """Its continuous batching, with the sizes that ours has: 512 tokens a step, prefixes shared."""
    config = openvino_genai.SchedulerConfig()
    config.cache_size = 2
    config.max_num_batched_tokens = 512
    config.max_num_seqs = 64
    config.enable_prefix_caching = True
    config.dynamic_split_fuse = True
    precision = PRECISIONS[DType(dtype)]
    pipe = openvino_genai.ContinuousBatchingPipeline(
        exported,
        config,
        "CPU",
        {"INFERENCE_PRECISION_HINT": precision, "KV_CACHE_PRECISION": precision},
    )

    def loop(requests: Sequence[Request], streams: int) -> int:
        waiting, live, tokens = list(requests), {}, 0
        while waiting or live:
            while waiting and len(live) < streams:
                wanted = waiting.pop()
                params = openvino_genai.GenerationConfig()
                params.max_new_tokens = wanted.stop.max_new_tokens
                params.ignore_eos = True
                params.do_sample = False
                prompt = openvino.Tensor(np.array([wanted.prompt], np.int64))
                number = int(wanted.request_id)
                live[number] = pipe.add_request(number, prompt, params)
            pipe.step()
            for number, handle in list(live.items()):
                while handle.can_read():
                    tokens += sum(len(o.generated_ids) for o in handle.read().values())
                if handle.get_status() != openvino_genai.GenerationStatus.RUNNING:
                    del live[number]
        return tokens

    return loop


if __name__ == "__main__":
    sys.exit(main())
