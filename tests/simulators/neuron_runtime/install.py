"""The double's modules by name, and the machine that optimum-neuron should believe in."""

from __future__ import annotations

import importlib
import sys
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from tests.simulators.neuron_runtime import builder, hlo, layers

_VERSIONS = {
    "torch_neuronx": "2.8.0.2.10.16998",
    "neuronx_cc": "2.21.33363.0",
    "neuronx_distributed": "0.15.22404",
    "libneuronxla": "2.2.12677.0",
    "torch_xla": "2.8.1",
}


class _Named:
    """What is imported by name and never used for these models."""


def _no_cache(cache_dir: str | None = None) -> None:
    """Of compiled graphs: there are none."""


def _no_kernel(*arguments: Any, **more: Any) -> Any:
    raise RuntimeError("the double has no NKI kernels")


def _same(x: torch.Tensor, *arguments: Any, **more: Any) -> torch.Tensor:
    """A collective among one core."""
    return x


def _modules() -> dict[str, dict[str, Any]]:
    nxd, moe = "neuronx_distributed", "neuronx_distributed.modules.moe"
    kernels = "neuronxcc.nki._private_kernels"
    one = SimpleNamespace(size=lambda: 1, rank=lambda: 0)
    group = dict.fromkeys(
        ("get_tensor_model_parallel_group", "get_kv_shared_group"), lambda *_, **__: one
    )
    collectives = (
        "_gather_along_dim",
        "gather_from_sequence_parallel_region",
        "gather_from_tensor_model_parallel_region_with_dim",
        "reduce_from_tensor_model_parallel_region",
        "reduce_scatter_to_sequence_parallel_region",
        "scatter_to_tensor_model_parallel_region",
        "copy_to_tensor_model_parallel_region",
    )
    names = {
        f"{moe}.model": ("MoE",),
        f"{moe}.expert_mlps": ("ExpertMLPs",),
        f"{moe}.expert_mlps_v2": ("ExpertMLPsV2",),
        f"{moe}.routing": ("RouterTopK",),
        f"{moe}.shared_experts": ("SharedExperts",),
        f"{moe}.moe_configs": ("RoutedExpertsMLPOpsConfig",),
        f"{nxd}.pipeline": ("NxDPPModel",),
        "torch_neuronx": ("DataParallel",),
        "libneuronxla.neuron_cc_cache": ("CompileCache", "CompileCacheFs", "CompileCacheS3"),
    }
    content: dict[str, dict[str, Any]] = {
        module: dict.fromkeys(wanted, _Named) for module, wanted in names.items()
    }
    content["libneuronxla.neuron_cc_cache"] |= {
        "CacheUrl": type("CacheUrl", (), {"get_cache_url": staticmethod(_no_cache)}),
        "create_compile_cache": lambda url: None,
    }
    return content | {
        f"{nxd}.trace.hlo_utils": {"NXD_LAYOUT_TRANSFORMATION_OPTIONS": "NXD_LAYOUT_OPTIONS"},
        f"{nxd}.trace.model_builder": {
            "BaseModelInstance": _Named,
            "ModelBuilder": builder.ModelBuilder,
        },
        f"{nxd}.parallel_layers.layers": {
            "SPMDRank": layers.SPMDRank,
            "BaseParallelLinear": layers.ParallelLinear,
            "ColumnParallelLinear": layers.ParallelLinear,
            "RowParallelLinear": layers.ParallelLinear,
            "ParallelEmbedding": layers.ParallelEmbedding,
        },
        f"{nxd}.parallel_layers.mappings": dict.fromkeys(collectives, _same),
        f"{nxd}.parallel_layers.parallel_state": {
            **group,
            "model_parallel_is_initialized": lambda: True,
            "initialize_model_parallel": lambda *_, **__: None,
            "get_tensor_model_parallel_size": lambda: 1,
            "get_tensor_model_parallel_rank": lambda: 0,
        },
        f"{nxd}.parallel_layers.pad": {"get_number_of_extra_heads": lambda heads, tp: -heads % tp},
        f"{nxd}.parallel_layers.random": {"model_parallel_xla_manual_seed": lambda seed: None},
        f"{nxd}.parallel_layers.utils": {
            "divide": lambda a, b: a // b,
            "get_padding_length": lambda n, d: -n % d,
        },
        f"{nxd}.operators.argmax": {"argmax": layers.argmax},
        f"{nxd}.operators.topk": {"topk": layers.topk},
        f"{nxd}.utils.utils": {"hardware": layers.hardware},
        "neuronxcc": {"__version__": _VERSIONS["neuronx_cc"]},
        "neuronxcc.nki.language": {"nc": lambda n: n},
        f"{kernels}.attention": {"attention_isa_kernel": _no_kernel},
        f"{kernels}.cumsum": {"cumsum": _no_kernel},
        "torch_neuronx.utils": {"get_platform_target": lambda: "inf2"},
        "torch_neuronx.xla_impl.base": {"xla_hlo_call": hlo.xla_hlo_call},
        "torch_neuronx.xla_impl.ops": {
            "xla_hlo_call": hlo.xla_hlo_call,
            "nki_jit": lambda *_, **__: lambda kernel: _no_kernel,
            "RmsNorm": layers.RmsNorm,
        },
        "torch_xla.core.xla_model": {},
        "torch_xla.runtime": {},
        "torch_xla.distributed.xla_backend": {},
    }


def install(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Until the patch is undone, optimum-neuron finds all of it, and one Inferentia2.

    Args:
        patch: undoes everything.
        folder: an empty one, for what says that packages are installed.
    """
    for name, version in _VERSIONS.items():
        information = folder / f"{name}-{version}.dist-info"
        information.mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        (information / "METADATA").write_text(text)
    patch.syspath_prepend(str(folder))
    for name, content in _modules().items():
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = _module(patch, ".".join(parts[:end]))
        for key, value in content.items():
            setattr(module, key, value)
    _believe_in_a_device(patch, folder)
    builder.loads_what_it_saved(patch)


def _module(patch: pytest.MonkeyPatch, name: str) -> ModuleType:
    if name not in sys.modules:
        module = ModuleType(name)
        module.__spec__ = ModuleSpec(name, None, is_package=True)
        module.__path__ = []  # type: ignore[attr-defined]
        module.__version__ = _VERSIONS.get(name, "")  # type: ignore[attr-defined]
        patch.setitem(sys.modules, name, module)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    return sys.modules[name]


def _believe_in_a_device(patch: pytest.MonkeyPatch, folder: Path) -> None:
    facts = {
        "get_neuron_major": lambda: 240,
        "get_instance_name": lambda: "inf2.xlarge",
        "get_neuron_devices_count": lambda: 1,
    }
    with warnings.catch_warnings():
        # it looks for a device as soon as it is imported
        warnings.simplefilter("ignore")
        importlib.import_module("optimum.neuron")
    for name in ("system", "instance"):
        module = importlib.import_module(f"optimum.neuron.utils.{name}")
        for key, value in facts.items():
            if hasattr(module, key):
                patch.setattr(module, key, value)
    memory = importlib.import_module("optimum.neuron.utils.neuron_device_memory")
    patch.setattr(memory, "SYSFS_NEURON_BASE", folder)
