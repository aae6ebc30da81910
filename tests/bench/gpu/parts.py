"""The measurements, each of which ends by itself and prints rows of one table as it goes.

Printed lines that begin with `|` are rows: what, ours, the limit or the peer, the ratio.
"""

from __future__ import annotations

import cProfile
import io
import os
import pstats
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from tgi_backend_cuda.plugin import create
from transformers import GenerationConfig, PretrainedConfig

from tests.bench.gpu.limits import Limits, Needs, measure_limits
from tests.bench.gpu.models import (
    RandomBackend,
    llama_1b,
    llama_8b,
    make_model,
    mixtral,
    start,
)
from tests.bench.gpu.trace import busy_share, kernel_table
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    LoadRequest,
    ModelFiles,
    ModelFormat,
    Request,
    RequestFailed,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine

PROMPT, OUTPUT, STREAMS, SHORT = 1024, 1024, 256, 128
_PEER_SECONDS = 45


def say(text: str) -> None:
    print(text, flush=True)


def row(what: str, ours: str, limit: str, ratio: float, goal: str) -> None:
    say(f"| {what} | {ours} | {limit} | {ratio:.2f} | {goal} |")


def requests(count: int, prompt: int, output: int, vocab: int) -> list[Request]:
    """Greedy, of random tokens, with outputs of exactly that length."""
    rng = random.Random(17)
    return [
        Request(
            request_id=f"{rng.random()}",
            prompt=tuple(rng.randrange(vocab) for _ in range(prompt)),
            stop=StopRule(max_new_tokens=output),
        )
        for _ in range(count)
    ]


class Load:
    """Requests in an engine, and when their tokens came."""

    def __init__(self, engine: StepEngine, wanted: list[Request]) -> None:
        self.engine = engine
        self.generated = 0
        self.first: dict[str, float] = {}
        self.began = time.perf_counter()
        for request in wanted:
            engine.submit(request)

    def poll(self) -> None:
        for event in self.engine.poll(0.01):
            if isinstance(event, TokenEvent):
                self.generated += len(event.tokens)
                self.first.setdefault(event.request_id, time.perf_counter())
            elif isinstance(event, RequestFailed):
                raise RuntimeError(event.message)

    def until(self, done: Callable[[], bool]) -> float:
        """Polls; the seconds that it took."""
        begin = time.perf_counter()
        while self.engine.busy and not done():
            self.poll()
        return time.perf_counter() - begin

    def all(self) -> float:
        return self.until(lambda: False)


def decode_alone(
    name: str, engine: StepEngine, needs: Needs, limits: Limits, vocab: int, goal: str
) -> None:
    load = Load(engine, requests(1, 64, 256, vocab))
    load.until(lambda: load.generated >= 16)
    before = load.generated
    took = load.all()
    rate = (load.generated - before) / took
    limit = 1 / needs.decode_s(limits, 1, 64 + 128)
    row(f"{name}: decode, 1 stream", f"{rate:.0f} tokens/s", f"{limit:.0f}", rate / limit, goal)


def prefill(engine: StepEngine, needs: Needs, limits: Limits, vocab: int) -> None:
    for length in (8192, 8192):  # the first one meets kernels for the first time
        load = Load(engine, requests(1, length, 2, vocab))
        load.until(lambda load=load: bool(load.first))
        took = next(iter(load.first.values())) - load.began
        load.all()
    limit = needs.prefill_s(limits, 8192)
    flops = needs.prefill_flops(8192) / took / 1e12
    row(
        "8B: prompt of 8,192 tokens",
        f"{took * 1e3:.0f} ms, {flops:.0f} TFLOP/s",
        f"{limit * 1e3:.0f} ms",
        limit / took,
        "0.70",
    )


def throughput(engine: StepEngine, needs: Needs, limits: Limits, vocab: int, output: int) -> float:
    """Output tokens a second."""
    streams = min(STREAMS, engine.info.cache_tokens // (PROMPT + output + 16))
    load = Load(engine, requests(streams, PROMPT, output, vocab))
    took = load.all()
    rate = load.generated / took
    prompts = streams * needs.prefill_flops(PROMPT) / limits.flops_s
    decoding = sum(needs.decode_s(limits, streams, PROMPT + i) for i in range(output))
    say(
        f"  the limit for {streams} streams of {PROMPT} in, {output} out: prompts "
        f"{needs.prefill_flops(PROMPT) / 1e12:.1f} TFLOP each, in all {prompts:.2f} s at the "
        f"matrix rate; {output} steps that read {2 * needs.expert_numbers / 1e9:.1f} GB of "
        f"weights and {needs.cell_bytes / 1024:.0f} KiB for each of {streams} x {PROMPT} to "
        f"{PROMPT + output} tokens, in all {decoding:.2f} s at the copy bandwidth"
    )
    limit = streams * output / (prompts + decoding)
    row(
        f"8B: {PROMPT} in, {output} out, {streams} streams",
        f"{rate:.0f} tokens/s",
        f"{limit:.0f}",
        rate / limit,
        "0.80",
    )
    return rate


def host_work(backend: RandomBackend, engine: StepEngine, vocab: int, streams: int) -> None:
    streams = min(streams, engine.info.cache_tokens // 512)
    load = Load(engine, requests(streams, 64, 200, vocab))
    load.until(lambda: load.generated >= 20 * streams)
    steps, waited = engine.stats().steps, backend.waited_s
    took = load.until(lambda: load.generated >= 120 * streams)
    steps, waited = engine.stats().steps - steps, backend.waited_s - waited
    with cProfile.Profile() as profile:
        load.until(lambda: load.generated >= 160 * streams)
    load.all()
    own = (took - waited) / steps * 1e3
    row(
        f"8B: host work a step, {streams} streams",
        f"{own:.2f} ms of {took / steps * 1e3:.2f}",
        "1.00 ms",
        own,
        "1.00 or less",
    )
    told = io.StringIO()
    pstats.Stats(profile, stream=told).sort_stats("tottime").print_stats(25)
    say(f"  the host's time of 40 steps, slowed by the profiler:\n{told.getvalue()}")


def traced(load: Load, tokens: int, folder: Path) -> Path:
    """The device's trace of the steps that make so many tokens more."""
    until = load.generated + tokens
    # the device alone: recording the host's calls as well would slow the host
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        load.until(lambda: load.generated >= until)
        torch.cuda.synchronize()
    load.all()
    trace = folder / "trace.json"
    profile.export_chrome_trace(str(trace))
    return trace


def idle(
    name: str, engine: StepEngine, config: PretrainedConfig, folder: Path, streams: int
) -> None:
    vocab, layers = config.vocab_size, config.num_hidden_layers
    streams = min(streams, engine.info.cache_tokens // 512)
    load = Load(engine, requests(streams, 64, 120, vocab))
    load.until(lambda: load.generated >= 20 * streams)
    trace = traced(load, 20 * streams, folder)
    share = 1 - busy_share(trace)
    row(f"{name}: device idle, {streams} streams", f"{share:.1%}", "2.0%", share, "0.02 or less")
    say(kernel_table(trace, steps=20, layers=layers))


def prefill_kernels(engine: StepEngine, vocab: int, folder: Path) -> None:
    trace = traced(Load(engine, requests(1, 8192, 2, vocab)), 1, folder)
    say("  a prompt of 8,192 tokens:\n" + kernel_table(trace, steps=1, layers=32))


def part_8b(folder: Path) -> None:
    """Llama 3.1 8B: everything in one process."""
    limits = tell_limits()
    config = llama_8b()
    backend, engine = start(config, folder, say, max_rows=STREAMS, max_step_tokens=8192)
    assert backend.model is not None
    needs, vocab = Needs.of(backend.model, config), config.vocab_size
    attempt(lambda: decode_alone("8B", engine, needs, limits, vocab, "0.90"))
    attempt(lambda: prefill(engine, needs, limits, vocab))
    attempt(lambda: host_work(backend, engine, vocab, STREAMS))
    attempt(lambda: idle("8B", engine, config, folder, 1))
    attempt(lambda: idle("8B", engine, config, folder, 64))
    attempt(lambda: prefill_kernels(engine, vocab, folder))
    attempt(lambda: throughput(engine, needs, limits, vocab, SHORT))
    attempt(lambda: throughput(engine, needs, limits, vocab, OUTPUT))


def part_small(config: PretrainedConfig, name: str, folder: Path, goal: str) -> None:
    limits = tell_limits()
    backend, engine = start(config, folder, say, max_rows=16, max_step_tokens=1024)
    assert backend.model is not None
    needs = Needs.of(backend.model, config)
    decode_alone(name, engine, needs, limits, config.vocab_size, goal)
    idle(name, engine, config, folder, 1)


def part_1b(folder: Path) -> None:
    """Llama 3.2 1B, one stream."""
    part_small(llama_1b(), "1B", folder, "0.90")


def part_mixtral(folder: Path) -> None:
    """Mixtral 8x7B, or as many of its layers as fit, one stream."""
    config = mixtral()
    part_small(config, f"Mixtral, {config.num_hidden_layers} layers", folder, "0.90")


def part_ranks(folder: Path) -> None:
    """Llama 3.2 1B on one GPU and on two, which exchange results by NCCL; one stream."""
    if torch.cuda.device_count() < 2:
        say("not run: this machine has one GPU, and two ranks need two")
        return
    config = llama_1b()
    make_model(config, "sdpa").save_pretrained(folder)
    torch.cuda.empty_cache()
    rates = []
    for size in (1, 2):
        backend = create()
        engine = StepEngine(backend, FirstComeFirstServed(), EngineLimits(prefix_caching=False))
        files = ModelFiles(reference="random", path=folder, format=ModelFormat.SAFETENSORS)
        engine.start(
            LoadRequest(model=files, num_shards=size, max_rows=16, max_step_tokens=1024),
            lambda *_: None,
        )
        load = Load(engine, requests(1, 64, 256, config.vocab_size))
        load.until(lambda load=load: load.generated >= 16)
        before = load.generated
        rates.append((256 - before) / load.all())
        backend.close()
    one, two = rates
    row("1B: decode, 1 stream, 2 GPUs", f"{two:.0f} tokens/s", f"{one:.0f}", two / one, "1.20")


def part_warm(folder: Path) -> None:
    """Llama 3.1 8B once more, only to be ready: the kernels are compiled by now."""
    start(llama_8b(), folder, say, max_rows=STREAMS, max_step_tokens=8192)


def part_peer(folder: Path) -> None:
    """Transformers' continuous batching with the same model; 128 tokens out.

    Without a library's attention each step multiplies all queries with all keys of the batch, so
    it may not end in time. Then what it made by then says at most how fast it is.
    """
    from transformers.generation.continuous_batching.utils import WorkloadHints

    config = llama_8b()
    model = make_model(config, "sdpa")
    wanted = [list(r.prompt) for r in requests(STREAMS, PROMPT, SHORT, config.vocab_size)]
    generation = GenerationConfig(
        max_new_tokens=SHORT, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    hints = WorkloadHints(
        max_prompt_length=PROMPT, max_generated_length=SHORT, num_requests=STREAMS
    )
    begin = time.perf_counter()
    with (
        torch.no_grad(),
        model.continuous_batching_context_manager(
            generation_config=generation, workload_hints=hints
        ) as manager,
    ):
        say(f"  ready in {time.perf_counter() - begin:.1f} s")
        begin = time.perf_counter()
        manager.add_requests(inputs=wanted, max_new_tokens=SHORT)
        done = 0
        while done < STREAMS and time.perf_counter() - begin < _PEER_SECONDS:
            result = manager.get_result(timeout=1)
            done += result is not None and result.is_finished()
        took = time.perf_counter() - begin
        rate = STREAMS * SHORT / took
        say(
            f"| transformers' continuous batching: {PROMPT} in, {SHORT} out, {STREAMS} streams, "
            f"{done} of them ended in {took:.0f} s | {'' if done == STREAMS else 'less than '}"
            f"{rate:.0f} tokens/s | | | ours 1.5 times that |"
        )
        os._exit(0)  # its thread would go on to the end of what it was asked


def part_tiles(folder: Path) -> None:
    """Which sizes of tiles are fastest on this chip."""
    from tests.bench.gpu.tiles import best_tiles

    for line in best_tiles(measure_limits()):
        say(line)


def part_bits(folder: Path) -> None:
    """How a layer in 4 bits is multiplied fastest."""
    from tests.bench.gpu.bits import ways

    for line in ways(tell_limits()):
        say(line)


def part_ways(folder: Path) -> None:
    """A step of one row and of eight, by each way to compute it."""
    from tests.bench.gpu.ways import ways

    for name, config in (("1B", llama_1b()), ("8B", llama_8b())):
        say(f"{name}, the graph of a decoding step:")
        for line in ways(config, folder):
            say(line)


def tell_limits() -> Limits:
    limits = measure_limits()
    say(
        f"{torch.cuda.get_device_name()}: copies {limits.bytes_s / 1e12:.2f} TB/s, multiplies "
        f"{limits.flops_s / 1e12:.0f} TFLOP/s"
    )
    return limits


def attempt(measure: Callable[[], object]) -> None:
    """One measurement that fails leaves the others."""
    try:
        measure()
    except Exception as error:
        say(f"  failed: {error!r}")


PARTS: dict[str, tuple[Callable[[Path], None], int]] = {
    "8b": (part_8b, 200),
    "1b": (part_1b, 60),
    "mixtral": (part_mixtral, 90),
    "ranks": (part_ranks, 90),
    "warm": (part_warm, 60),
    "peer": (part_peer, 100),
    "tiles": (part_tiles, 90),
    "bits": (part_bits, 60),
    "ways": (part_ways, 90),
}
"""By name: what to run, and the most seconds that it may take."""


def run(name: str) -> None:
    measure, _ = PARTS[name]
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))
