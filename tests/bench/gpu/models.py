"""Models with the shapes of real ones and random weights, made on the GPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tgi_backend_cuda.chip import Chip, nvidia_chip
from tgi_backend_cuda.device import GpuDevice
from tgi_backend_cuda.driver import TorchDriver
from tgi_backend_torch.attention import IMPLEMENTATION
from tgi_backend_torch.loader import quiet
from tgi_backend_torch.on_device import SamplingTorchBackend
from tgi_backend_torch.shards import Cuts, Share
from transformers import PretrainedConfig, PreTrainedModel

from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.contract import (
    LoadRequest,
    ModelFiles,
    ModelFormat,
    PendingLogits,
    PendingTokens,
    SampledTokens,
    SamplingBatch,
)
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine


def llama_8b() -> PretrainedConfig:
    """Llama 3.1 8B."""
    return transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=16384,
        rope_theta=500000.0,
    )


def llama_1b() -> PretrainedConfig:
    """Llama 3.2 1B."""
    return transformers.LlamaConfig(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=16384,
        rope_theta=500000.0,
        tie_word_embeddings=True,
    )


def mixtral() -> PretrainedConfig:
    """Mixtral 8x7B, with as many of its 32 layers as three quarters of the memory hold."""
    config = transformers.MixtralConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=16384,
        rope_theta=1000000.0,
        sliding_window=None,
    )
    layer_bytes = 2 * (8 * 3 * 4096 * 14336 + 42_000_000)
    fits = int(0.75 * torch.cuda.mem_get_info()[0]) // layer_bytes
    config.num_hidden_layers = min(32, fits)
    return config


def make_model(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """The model on the GPU, in bfloat16."""
    with torch.device("cuda"), torch.no_grad(), quiet():
        model: PreTrainedModel = transformers.AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention
        )
    return model.eval()


@dataclass(slots=True)
class Clock:
    """How long what took, in the order of first mention."""

    seconds: dict[str, float] = field(default_factory=dict)

    def add(self, phase: str, begin: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + time.perf_counter() - begin


class RandomBackend(SamplingTorchBackend):
    """The CUDA backend over a model that was never on disk; counts how long it waits."""

    def __init__(self, config: PretrainedConfig, chip: Chip | None = None) -> None:
        super().__init__(GpuDevice("cuda", chip or nvidia_chip(), TorchDriver()))
        self.config = config
        self.model: PreTrainedModel | None = None
        self.clock = Clock()
        self.waited_s = 0.0

    def _weights(self, request: LoadRequest) -> Any:
        return self

    def fill(self, *_: object, share: Share, **__: object) -> tuple[PreTrainedModel, Cuts]:
        """As `Weights.fill`."""
        begin = time.perf_counter()
        self.model = make_model(self.config, IMPLEMENTATION)
        torch.cuda.synchronize()
        self.clock.add("weights", begin)
        return self.model, share.cuts(self.model)

    def sample(self, logits: PendingLogits, batch: SamplingBatch) -> PendingTokens:
        return _Timed(self, super().sample(logits, batch))


@dataclass(frozen=True, slots=True)
class _Timed:
    backend: RandomBackend
    tokens: PendingTokens

    def wait(self) -> SampledTokens:
        begin = time.perf_counter()
        found = self.tokens.wait()
        self.backend.waited_s += time.perf_counter() - begin
        return found


def start(
    config: PretrainedConfig, folder: Path, say: Callable[[str], None], **wishes: object
) -> tuple[RandomBackend, StepEngine]:
    """An engine over a random model that is ready for requests; says how long that took."""
    began = time.perf_counter()
    config.save_pretrained(folder)
    backend = RandomBackend(config)
    files = ModelFiles(reference="random", path=folder, format=ModelFormat.SAFETENSORS)
    request = LoadRequest(model=files, **wishes)  # type: ignore[arg-type]
    # the prefix cache would answer prompts that were measured before
    engine = StepEngine(backend, FirstComeFirstServed(), EngineLimits(prefix_caching=False))
    begin = time.perf_counter()
    capabilities = backend.load(request, lambda *_: None)
    torch.cuda.synchronize()
    loaded = time.perf_counter() - begin - backend.clock.seconds["weights"]
    begin = time.perf_counter()
    backend.warm_up(lambda *_: None)
    torch.cuda.synchronize()
    warmed = time.perf_counter() - begin
    engine.prepare(capabilities)
    # as the engine process does: torch and transformers are a million objects to look through
    gc.collect()
    gc.freeze()
    graphs = backend._here().computing.num_graphs
    say(
        f"ready in {time.perf_counter() - began:.1f} s: weights "
        f"{backend.clock.seconds['weights']:.1f}, fusing, trial and cache {loaded:.1f}, "
        f"{graphs} graphs and warm-up {warmed:.1f}"
    )
    say(
        f"cache {capabilities.cache_tokens} tokens, {capabilities.max_rows} rows, "
        f"{capabilities.max_step_tokens} tokens a step; free "
        f"{torch.cuda.mem_get_info()[0] / 2**30:.1f} GiB"
    )
    return backend, engine
