"""Adapters: checked before TensorRT-LLM sees them, for what it finds wrong may be everybody's end.

The library reads an adapter when a request first names it, keeps as many as it was told, and knows
them by number. A number is never given twice, so a new version of an adapter is another one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from tgi_backend_trtllm.job import LoadedAdapter
from tgi_backend_trtllm.options import AdapterRoom
from tgi_core.contract import AdapterRef, LinearShape, available_bytes, read_peft, version_of
from tgi_core.contract.safetensors import DamagedFile, read_safetensors
from tgi_core.errors import BadAdapter, BadModel

_NOT_COMPUTED = ("alpha_pattern", "rank_pattern", "use_rslora")
"""Fields that core understands and this library passes over."""


class AdapterTable:
    """The adapters of one engine."""

    def __init__(self, model: Path, room: AdapterRoom, layers: frozenset[str]) -> None:
        """Looks at the heads of the model's files.

        Args:
            model: the model's folder.
            room: what adapters may be.
            layers: names of the layers that adapters may change, such as q_proj.

        Raises:
            BadModel: a file is damaged.
        """
        self._model = model
        self._room = room
        self._shapes = _shapes(model, layers)
        self._loaded: dict[AdapterRef, LoadedAdapter] = {}

    def get(self, adapter: AdapterRef) -> LoadedAdapter:
        """The adapter, checked when it is first asked for.

        Raises:
            BadAdapter: its files have changed, are damaged, or do not fit; names what it is.
        """
        if version_of(adapter.path) != adapter.version:
            raise BadAdapter("its files have changed since it was loaded: load it again")
        loaded = self._loaded.get(adapter)
        if loaded is None:
            read_peft(
                adapter.path,
                self._shapes,
                max_rank=self._room.max_rank,
                free_bytes=available_bytes(),
                model=str(self._model),
            )
            config = json.loads((adapter.path / "adapter_config.json").read_text(encoding="utf-8"))
            for name in _NOT_COMPUTED:
                if config.get(name):
                    raise BadAdapter(f"it asks for {name}, which TensorRT-LLM does not compute")
            # 0 is the library's own default
            loaded = LoadedAdapter(number=len(self._loaded) + 1, path=adapter.path)
            self._loaded[adapter] = loaded
        return loaded


def _shapes(model: Path, layers: frozenset[str]) -> Mapping[str, LinearShape]:
    shapes: dict[str, LinearShape] = {}
    for file in sorted(model.glob("*.safetensors")):
        try:
            tensors = read_safetensors(file)
        except (DamagedFile, OSError) as error:
            raise BadModel(f"{file} is damaged or incomplete ({error}).") from error
        for name, tensor in tensors.items():
            module, _, kind = name.rpartition(".")
            if kind == "weight" and module.rpartition(".")[2] in layers and len(tensor.shape) == 2:
                outputs, inputs = tensor.shape
                shapes[module] = LinearShape(inputs=inputs, outputs=outputs)
    return shapes
