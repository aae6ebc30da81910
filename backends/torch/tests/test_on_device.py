"""A torch backend that samples where the logits are, two steps in flight."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tgi_backend_torch import plugin
from tgi_backend_torch.on_device import SamplingTorchBackend
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.sampler import sample

from tests.engines import generate, no_progress
from tests.families import VOCAB, request_for
from tests.transformers_conformance import TransformersConformance
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    BackendSpec,
    Request,
    RequestFailed,
    SamplingParams,
    StopRule,
    TokenEvent,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine


class TestSamplingTorch(TransformersConformance):
    module = plugin
    package = "tgi_backend_torch"

    @pytest.fixture(scope="class")
    @classmethod
    def spec(cls) -> BackendSpec:
        return replace(plugin.tgi_backend(), create=SamplingTorchBackend)


def engine_over(backend: TorchBackend, folder: Path, **limits) -> StepEngine:
    engine = StepEngine(backend, FirstComeFirstServed(), EngineLimits(**limits))
    engine.start(request_for(folder, max_rows=6, cache_tokens=512, num_threads=1), no_progress)
    return engine


def wanted(count: int) -> list[Request]:
    """Greedy, drawn, penalized and biased ones, of different lengths."""
    rng = np.random.default_rng(11)
    kinds = [
        {},
        {"temperature": 1.0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 20, "logprobs": True},
        {"temperature": 1.0, "repetition_penalty": 1.3, "num_top": 2},
        {"logit_bias": ((5, 3.0),), "min_p": 0.05, "temperature": 1.2},
    ]
    return [
        Request(
            request_id=f"r{i}",
            prompt=tuple(rng.integers(3, VOCAB, int(rng.integers(1, 40))).tolist()),
            sampling=SamplingParams(seed=i, **kinds[i % len(kinds)]),
            stop=StopRule(max_new_tokens=int(rng.integers(1, 30)), eos_token_ids=(2,)),
        )
        for i in range(count)
    ]


@pytest.mark.parametrize("family", ["llama", "bloom", "mamba2", "t5"])
def test_running_ahead_changes_no_token(family, family_folder):
    folder, requests = family_folder(family), wanted(15)
    expected = generate(engine_over(TorchBackend(), folder), requests)
    ahead = engine_over(SamplingTorchBackend(), folder)
    assert generate(ahead, requests) == expected
    assert generate(ahead, requests, per_step=15) == expected
    assert generate(engine_over(SamplingTorchBackend(), folder, steps_in_flight=1), requests) == (
        expected
    )


def test_a_row_that_cannot_be_sampled_fails_alone_though_its_next_step_has_begun(family_folder):
    """Its token is -1, and the step that is in flight by then must not look that up."""

    class Forgetful(SamplingTorchBackend):
        def step(self, step):
            logits = super().step(step)
            if len(step.out) > 1:
                with torch.inference_mode():
                    logits.tensor[1] = float("nan")
            return logits

    engine = engine_over(Forgetful(), family_folder("llama"))
    for i in range(3):
        stop = StopRule(max_new_tokens=12)
        engine.submit(Request(request_id=f"{i}", prompt=(5 + i, 6, 7), stop=stop))
    failed, tokens = set(), {}
    while engine.busy:
        for event in engine.poll(0):
            if isinstance(event, RequestFailed):
                failed.add(event.request_id)
            elif isinstance(event, TokenEvent):
                tokens.setdefault(event.request_id, []).extend(event.tokens)
    assert failed and len(failed) < 3
    assert all(len(t) == 12 for request_id, t in tokens.items() if request_id not in failed)


def test_rows_whose_sampling_ran_out_of_memory_are_computed_again_and_change_nothing(
    family_folder, monkeypatch
):
    folder, requests = family_folder("llama"), wanted(9)
    expected = generate(engine_over(TorchBackend(), folder), requests)
    backend = SamplingTorchBackend()
    engine = engine_over(backend, folder)
    calls = []

    def fails_now_and_then(*args):
        calls.append(args)
        if len(calls) % 7 == 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return sample(*args)

    monkeypatch.setattr("tgi_backend_torch.on_device.sample", fails_now_and_then)
    assert generate(engine, requests) == expected
