"""The simulated GPU: a model of transformers on the CPU, and what adapters make of it.

Computes in float32, row by row, so that a row's numbers do not depend on the others.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from torch import nn


class CpuModel:
    def __init__(self, path: Path) -> None:
        # the real one reads the checkpoint in processes of its own, and wraps what they raise
        try:
            self._base = transformers.AutoModelForCausalLM.from_pretrained(
                path, dtype=torch.float32
            ).eval()
        except Exception as error:
            raise RuntimeError("Executor worker returned error") from error
        self._adapted: dict[int, nn.Module] = {}
        self.vocab_size = int(self._base.config.vocab_size)

    def read_adapter(self, number: int, path: Path) -> None:
        if number in self._adapted:
            return
        config = json.loads((path / "adapter_config.json").read_text())
        weights = load_file(path / "adapter_model.safetensors")
        scale = config["lora_alpha"] / config["r"]
        model = copy.deepcopy(self._base)
        for name, down in weights.items():
            if name.endswith(".lora_A.weight"):
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                up = weights[name.replace("lora_A", "lora_B")]
                with torch.no_grad():
                    model.get_submodule(module).weight += scale * (up.float() @ down.float())
        self._adapted[number] = model

    @torch.no_grad()
    def forward(self, tokens: list[int], cache: Any, adapter: int) -> tuple[torch.Tensor, Any]:
        """Logits of the last token, float32 (vocab,), and the cache for the next."""
        model = self._adapted[adapter] if adapter else self._base
        output = model(torch.tensor([tokens]), past_key_values=cache, use_cache=True)
        return output.logits[0, -1].float(), output.past_key_values
