"""What is compiled, as optimum-neuron's NxDNeuronConfig keeps it and writes it to a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from optimum.neuron.version import __version__

_FILE = "neuron_config.json"
_COMPILER = "2.21.33363.0"


class NxDNeuronConfig:
    """Its attributes may be changed until something is exported with them."""

    def __init__(self, **fields: Any) -> None:
        self.batch_size: int = fields["batch_size"]
        self.sequence_length: int = fields["sequence_length"]
        self.tp_degree: int = fields["tp_degree"]
        self.torch_dtype: torch.dtype = fields["torch_dtype"]
        self.target: str = fields["target"]
        self.on_device_sampling: bool = fields["on_device_sampling"]
        self.continuous_batching: bool = fields["continuous_batching"]
        self.max_topk: int = fields.get("max_topk", 256)
        self.max_batch_size: int = fields.get("max_batch_size") or self.batch_size
        self.max_context_length: int = fields.get("max_context_length") or self.sequence_length
        self.speculation_length: int = fields.get("speculation_length", 0)

    def save_pretrained(self, folder: Path) -> None:
        versions = {"optimum_neuron_version": __version__, "neuronxcc_version": _COMPILER}
        fields = {**vars(self), "torch_dtype": str(self.torch_dtype).removeprefix("torch.")}
        content = {**fields, **versions, "_serialized_key": "NxDNeuronConfig"}
        (folder / _FILE).write_text(json.dumps(content))

    @classmethod
    def from_pretrained(cls, folder: Path) -> NxDNeuronConfig:
        fields = json.loads((folder / _FILE).read_text())
        version = fields.pop("optimum_neuron_version")
        if version != __version__:
            raise ValueError(f"it was generated with optimum-neuron version {version}")
        return cls(**{**fields, "torch_dtype": getattr(torch, fields["torch_dtype"])})
