"""The calls of Intel Neural Compressor that a server makes; measurements are the largest inputs."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from torch import nn

_LARGEST_E4M3 = 240.0
"""Of a Gaudi 2."""


class FP8Config:
    def __init__(self, mode: str, dump_stats_path: str) -> None:
        self.measure, self.quantize = mode == "MEASURE", mode == "QUANTIZE"
        self._stats = dump_stats_path

    @property
    def stats(self) -> Path:
        """For each rank another file, by the variables that the real one asks."""
        rank, size = os.environ.get("LOCAL_RANK"), os.environ.get("WORLD_SIZE")
        return Path(f"{self._stats}_{rank}_{size}.json" if rank and size else f"{self._stats}.json")

    @classmethod
    def from_json_file(cls, filename: str) -> FP8Config:
        content = json.loads(Path(filename).read_text())
        if content["mode"] not in ("MEASURE", "QUANTIZE"):
            raise ValueError(f"mode {content['mode']}")
        return cls(content["mode"], content["dump_stats_path"])


def prepare(model: nn.Module, quant_config: FP8Config) -> nn.Module:
    seen: dict[str, float] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(
                lambda _, inputs, name=name: seen.update(
                    {name: max(seen.get(name, 0.0), float(inputs[0].detach().abs().max()))}
                )
            )
    model.fp8_measured = (seen, quant_config.stats)
    return model


def finalize_calibration(model: nn.Module) -> None:
    seen, stats = model.fp8_measured
    stats.write_text(json.dumps(seen))


def convert(model: nn.Module, quant_config: FP8Config) -> nn.Module:
    measured = json.loads(quant_config.stats.read_text())
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.input_scale = measured[name] / _LARGEST_E4M3
            scale = layer.weight.abs().max() / _LARGEST_E4M3
            rounded = (layer.weight.data / scale).to(torch.float8_e4m3fn)
            layer.weight.data = rounded.to(layer.weight.dtype) * scale
    return model
