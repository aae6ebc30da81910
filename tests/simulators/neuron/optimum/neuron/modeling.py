"""The calls of optimum-neuron 0.4.5 that a server makes, and what its wrappers do to the inputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from optimum.neuron.config import NxDNeuronConfig
from optimum.neuron.runtime import CONTEXT, TOKEN, Runtime, graph_inputs
from optimum.neuron.utils.system import get_available_cores
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad
from transformers import AutoConfig, PretrainedConfig

from tests.simulators.graphs import Graphs

_GRAPHS = "model.pt"
_WEIGHTS = "checkpoint/weights/tp0_sharded_checkpoint.safetensors"
_TARGETS = {"trn1": "trn1", "trn1n": "trn1", "inf2": "trn1", "trn2": "trn2"}


class NeuronModelForCausalLM:
    """A model that was compiled, and one whose weights are on the device if it has a runtime."""

    def __init__(self, config: PretrainedConfig, neuron_config: NxDNeuronConfig) -> None:
        self.config, self.neuron_config = config, neuron_config
        self.runtime: Runtime | None = None

    @classmethod
    def get_neuron_config(
        cls,
        model_name_or_path: str | Path,
        config: PretrainedConfig | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        instance_type: str | None = None,
        batch_size: int | None = None,
        sequence_length: int | None = None,
        tensor_parallel_size: int | None = None,
    ) -> NxDNeuronConfig:
        config = config or AutoConfig.from_pretrained(model_name_or_path).get_text_config()
        return NxDNeuronConfig(
            batch_size=batch_size or 1,
            sequence_length=sequence_length or min(config.max_position_embeddings, 4096),
            tp_degree=tensor_parallel_size or get_available_cores(),
            torch_dtype=config.dtype or torch.float32,
            target=_TARGETS[instance_type or "trn1"],
            on_device_sampling=True,
            continuous_batching=(batch_size or 1) > 1,
        )

    @classmethod
    def export(
        cls,
        model_id: str,
        neuron_config: NxDNeuronConfig,
        config: PretrainedConfig | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        load_weights: bool | None = False,
        **kwargs: Any,
    ) -> NeuronModelForCausalLM:
        config = config or AutoConfig.from_pretrained(model_id).get_text_config()
        if neuron_config.target != "trn1":
            # this machine has none of these, so it compiles for what optimum-neuron assumes
            raise ValueError(f"The compilation target is {neuron_config.target} but trn1 is set")
        model = cls(config, neuron_config)
        model.source = Path(model_id)  # type: ignore[attr-defined]
        return model

    def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
        folder = Path(save_directory)
        (folder / _WEIGHTS).parent.mkdir(parents=True)
        self.config.save_pretrained(folder)
        self.neuron_config.save_pretrained(folder)
        (folder / _GRAPHS).write_text(json.dumps(list(graph_inputs(self.neuron_config))))
        weights: dict[str, Tensor] = {}
        for file in sorted(self.source.glob("*.safetensors")):  # type: ignore[attr-defined]
            weights |= load_file(file)
        save_file(
            {name: x.to(self.neuron_config.torch_dtype) for name, x in weights.items()},
            folder / _WEIGHTS,
        )

    @classmethod
    def from_pretrained(cls, model_id: str | Path, **kwargs: Any) -> NeuronModelForCausalLM:
        folder = Path(model_id)
        config = AutoConfig.from_pretrained(folder)
        neuron_config = NxDNeuronConfig.from_pretrained(folder)
        if get_available_cores() < neuron_config.tp_degree:
            raise ValueError(f"The model requires at least {neuron_config.tp_degree} Neuron cores")
        inputs = graph_inputs(neuron_config)
        graphs = Graphs({name: inputs[name] for name in json.loads((folder / _GRAPHS).read_text())})
        model = cls(config, neuron_config)
        model.runtime = Runtime(config, neuron_config, graphs, load_file(folder / _WEIGHTS))
        return model

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        seq_ids: Tensor,
        sampling_params: Tensor,
    ) -> Tensor:
        """Chooses a graph by the shape, pads to it, and cuts off what does not fit."""
        inputs = [x.to(torch.int32) for x in (input_ids, position_ids, seq_ids)]
        tokens, positions, slots = inputs
        if tokens.shape[1] == 1 or positions.min() > 0:
            return self._padded(TOKEN, tokens, positions, slots, sampling_params)
        room = self.neuron_config.max_context_length - tokens.shape[1]
        # a negative room crops
        tokens, positions = pad(tokens, (0, room), value=0), pad(positions, (0, room), value=1)
        return self._padded(CONTEXT, tokens, positions, slots, sampling_params)

    def _padded(
        self, graph: str, tokens: Tensor, positions: Tensor, slots: Tensor, params: Tensor
    ) -> Tensor:
        """Rows that nobody asked for repeat the first one, in the slots that are left."""
        assert self.runtime is not None, "its weights were not loaded"
        rows, num = self.runtime.graphs.compiled[graph][0][0][0], len(slots)
        if num > rows and graph == TOKEN:
            raise ValueError(f"Input batch size {num} exceeds the maximum batch size {rows}.")
        if num > rows:
            each = [self._padded(graph, *(x[i : i + 1] for x in (tokens, positions, slots, params)))
                    for i in range(num)]  # fmt: skip
            return torch.cat(each)
        left = [slot for slot in range(rows) if slot not in slots.tolist()] if rows > num else []
        slots = torch.cat([slots, torch.tensor(left[: rows - num], dtype=torch.int32)])
        tokens, positions, params = (
            torch.cat([x, x[:1].expand(rows - num, -1)]) for x in (tokens, positions, params)
        )
        if graph == CONTEXT:
            return self.runtime(tokens, positions, slots, params)[:num]
        order = slots.argsort()
        out = self.runtime(tokens[order], positions[order], slots[order], params[order])
        return out[slots.long()][:num]
