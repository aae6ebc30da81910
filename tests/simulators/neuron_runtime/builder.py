"""ModelBuilder, and the runtime that takes what it made: a call must fit a graph exactly."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.simulators.graphs import Graphs, signature

Weights = dict[str, Tensor]


class ModelBuilder:
    """Takes modules with example inputs; tracing makes graphs of just these shapes."""

    def __init__(self, checkpoint_loader: Callable[[], Weights] | None = None, **more: Any) -> None:
        self._instances: dict[str, tuple[Any, tuple[Tensor, ...]]] = {}
        self._checkpoint_loader = checkpoint_loader

    def add(self, key: str, model_instance: Any, example_inputs: Any, **more: Any) -> None:
        [inputs] = example_inputs
        self._instances[key] = (model_instance, inputs)

    def trace(self, initialize_model_weights: bool) -> Runtime:
        return Runtime(
            {
                key: (_module(instance), inputs)
                for key, (instance, inputs) in self._instances.items()
            }
        )

    def shard_checkpoint(self, serialize_path: str | None = None) -> list[Weights]:
        """The weights as the modules want them: layers may fuse or repeat some."""
        assert self._checkpoint_loader is not None
        weights = self._checkpoint_loader()
        instance, _ = next(iter(self._instances.values()))
        _preshard(_module(instance), weights, "")
        weights = {name: tensor.contiguous().clone() for name, tensor in weights.items()}
        if serialize_path is not None:
            Path(serialize_path).mkdir(parents=True)
            save_file(weights, Path(serialize_path) / "tp0_sharded_checkpoint.safetensors")
        return [weights]


class Runtime(nn.Module):
    """All graphs over one cache: the outputs after the first are the cache's next state."""

    def __init__(self, modules: dict[str, tuple[nn.Module, tuple[Tensor, ...]]]) -> None:
        super().__init__()
        self._modules_of = {key: module for key, (module, _) in modules.items()}
        self.graphs = Graphs({key: signature(inputs) for key, (_, inputs) in modules.items()})
        self.cache: list[Tensor] = []

    @property
    def nxd_model(self) -> Runtime:
        return self

    def save(self, file: str, *arguments: Any, **more: Any) -> None:
        Path(file).write_text(json.dumps(sorted(self._modules_of)))

    def initialize(self, weights: list[Weights], start_rank: Tensor) -> None:
        caches = []
        for module in self._modules_of.values():
            lacks, _ = module.load_state_dict(weights[0], strict=False)
            unset = [name for name in lacks if "past_key_values" not in name and "rank" not in name]
            assert not unset, f"the checkpoint lacks {unset}"
            caches.append(module.kv_mgr)
        for cache in caches[1:]:
            cache.past_key_values = caches[0].past_key_values
        self.cache = list(caches[0].past_key_values)

    @torch.no_grad()
    def forward(self, *inputs: Tensor) -> Tensor:
        assert self.cache, "no weights were loaded"
        result, *cache = self._modules_of[self.graphs.find(inputs)](*inputs)
        for cells, new in zip(self.cache, cache, strict=True):
            cells.data.copy_(new)
        return result


def _module(instance: Any) -> nn.Module:
    instance.load_module()
    module, _ = instance.get(0)
    return module


def _preshard(module: nn.Module, weights: Weights, prefix: str) -> None:
    if hasattr(module, "preshard_hook"):
        module.preshard_hook(weights, prefix + "weight")
        return
    for name, child in module.named_children():
        _preshard(child, weights, f"{prefix}{name}.")


def loads_what_it_saved(patch: pytest.MonkeyPatch) -> None:
    """`torch.jit.load` gives a Runtime: its graphs are made anew from the configuration."""

    def load(file: str) -> Runtime:
        from transformers import AutoConfig

        backend = "optimum.neuron.models.inference.backend"
        neuron = importlib.import_module(f"{backend}.config")
        find = importlib.import_module("optimum.neuron.models.auto_model").get_neuron_model_class
        folder = Path(file).parent
        config = AutoConfig.from_pretrained(folder)
        neuron_config = neuron.NxDNeuronConfig.from_pretrained(folder)
        cls = find(config.model_type, task="text-generation", mode="inference")
        config.torch_dtype = neuron_config.torch_dtype
        made = cls.create_graph_builders(config=config, neuron_config=neuron_config)
        assert sorted(made) == json.loads(Path(file).read_text())
        get_builder = importlib.import_module(f"{backend}.pretrained_model").get_builder
        return get_builder(neuron_config, made).trace(initialize_model_weights=False)

    patch.setattr(torch.jit, "load", load)
    patch.setattr(torch.jit, "save", lambda module, file: module.save(file))
