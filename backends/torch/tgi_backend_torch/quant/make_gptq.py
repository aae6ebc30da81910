"""`tgi quantize`: a GPTQ checkpoint of a model, in the format that AutoGPTQ made common.

Layer after layer of the model: what goes into its linear layers is seen while it computes a text,
these are rounded, and what the rounded layer gives is what the next one sees.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from tgi_backend_torch.checkpoint import Checkpoint, MappedWeights, find_checkpoint
from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.loader import load_model, model_class, own_attention, quiet, read_config
from tgi_backend_torch.quant.bits import WORD, pack
from tgi_backend_torch.quant.calibration import windows
from tgi_backend_torch.quant.formats import refuse_quantized
from tgi_backend_torch.quant.solve import Rules, Seen, Solved, solve
from tgi_core.contract import ModelFiles, Progress, QuantizeWish
from tgi_core.errors import CacheUnwritable, UnsupportedModel, UsageError

_PHASE = "quantizing"
_GROUP_SIZES = (128, 64, 32)
_BITS = (2, 4, 8)
_COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
_NOT_COPIED = ("model.safetensors.index.json", "config.json", "quantize_config.json")
_FILE_BYTES = 4 << 30


def quantize(model: ModelFiles, target: Path, wish: QuantizeWish, progress: Progress) -> None:
    """Writes the checkpoint.

    Args:
        model: a folder of safetensors.
        target: a folder that does not exist yet; there is none if anything goes wrong.
        wish: how.
        progress: told of each layer.

    Raises:
        UsageError: the target exists, or the wish makes no sense.
        UnsupportedModel: the model is quantized already, or is not made of layers like others.
        BadModel: its files are damaged.
        CacheUnwritable: the disk does not take it.
    """
    if target.exists():
        raise UsageError(f"{target} exists already: name a folder that does not.")
    if wish.bits not in _BITS:
        raise UsageError(f"{wish.bits} bits are not made: choose one of {_BITS}.")
    source = model.path
    refuse_quantized(source, None, "models are quantized")
    config = read_config(source)
    cls = model_class(config)
    checkpoint = find_checkpoint(source)
    computed = CpuDevice().default_dtype(checkpoint.dtype)
    whole = load_model(
        cls,
        config,
        MappedWeights(checkpoint),
        computed,
        torch.device("cpu"),
        progress,
        attention=own_attention(cls),
    )
    layers = _layers_of(whole)
    linears = _linears(whole, layers)
    _refuse_other_names(source, checkpoint, [name for name, _ in linears])
    rules = _rules(wish, [linear for _, linear in linears])
    texts = windows(source, wish.texts, wish.num_windows)
    solved = _solve_all(whole, layers, texts, rules, progress)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
            folder = Path(work) / "model"
            folder.mkdir()
            _write(source, checkpoint, folder, solved, rules, wish)
            os.replace(folder, target)
    except OSError as error:
        raise CacheUnwritable(f"{target} cannot be written: {error}.") from error


def _layers_of(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list that the model goes through."""
    depth = model.config.get_text_config().num_hidden_layers
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return name, module
    raise UnsupportedModel(f"a {type(model).__name__} has no list of {depth} layers to go through.")


def _linears(
    model: PreTrainedModel, layers: tuple[str, nn.ModuleList]
) -> list[tuple[str, nn.Linear]]:
    """All linear layers inside of them, by name."""
    prefix = layers[0]
    found = [
        (name, module)
        for name, module in model.named_modules()
        if name.startswith(f"{prefix}.") and type(module) is nn.Linear
    ]
    whole = sum(each.numel() for each in layers[1].parameters() if each.dim() > 2)
    if not found or whole > sum(linear.weight.numel() for _, linear in found):
        raise UnsupportedModel(
            f"most weights of a {type(model).__name__} are in no linear layer (experts are not): "
            "only these are quantized."
        )
    return found


def _refuse_other_names(source: Path, checkpoint: Checkpoint, layers: Sequence[str]) -> None:
    held = {name for names in checkpoint.files.values() for name in names}
    if missing := sorted(layer for layer in layers if f"{layer}.weight" not in held):
        raise UnsupportedModel(
            f"{missing[0]} has another name in the files of {source}: convert the model first."
        )


def _rules(wish: QuantizeWish, linears: Sequence[nn.Linear]) -> Rules:
    per_word = WORD // wish.bits
    for linear in linears:
        if linear.in_features % per_word or linear.out_features % per_word:
            raise UnsupportedModel(
                f"a layer of {linear.in_features} x {linear.out_features} does not fill words of "
                f"{per_word} numbers."
            )
    size = wish.group_size
    if size is None:
        divisor = math.gcd(*(linear.in_features for linear in linears))
        size = next((each for each in _GROUP_SIZES if divisor % each == 0), -1)
    return Rules(
        bits=wish.bits,
        group_size=size if size > 0 else None,
        symmetric=wish.symmetric,
        orders=wish.orders,
        damping=wish.damping,
    )


def _solve_all(
    model: PreTrainedModel,
    layers: tuple[str, nn.ModuleList],
    texts: Sequence[Tensor],
    rules: Rules,
    progress: Progress,
) -> dict[str, Solved]:
    prefix, modules = layers
    solved: dict[str, Solved] = {}
    with torch.inference_mode(), quiet():
        calls = _calls_of_first(model, modules[0], texts)
        for index, layer in enumerate(modules):
            progress(_PHASE, index, len(modules), "layers")
            names = {
                name: module for name, module in layer.named_modules() if type(module) is nn.Linear
            }
            with _watched(names) as seen:
                for call in calls:
                    call.of(layer)
            for name, linear in names.items():
                try:
                    result = solve(linear.weight, seen[name].products, rules)
                except torch.linalg.LinAlgError as error:
                    raise UsageError(
                        f"the text says too little about {prefix}.{index}.{name}: give a longer "
                        "one, or more damping."
                    ) from error
                linear.weight = nn.Parameter(
                    _dense(result).to(linear.weight.dtype), requires_grad=False
                )
                solved[f"{prefix}.{index}.{name}"] = result
            calls = [call.next(layer) for call in calls]
        progress(_PHASE, len(modules), len(modules), "layers")
    return solved


def _dense(solved: Solved) -> Tensor:
    groups = solved.groups.long()
    numbers = solved.numbers.float() - solved.zeros.float()[:, groups]
    return numbers * solved.scales.float()[:, groups]


@dataclass(frozen=True, slots=True)
class _Call:
    """What a layer is called with."""

    hidden: Tensor
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def of(self, layer: nn.Module) -> Tensor:
        out = layer(self.hidden, *self.args, **self.kwargs)
        hidden: Tensor = out[0] if isinstance(out, tuple) else out
        return hidden

    def next(self, layer: nn.Module) -> _Call:
        """What the next layer is called with."""
        return _Call(self.of(layer), self.args, self.kwargs)


class _Reached(Exception):
    """The first layer was called, and nothing behind it is needed."""


def _calls_of_first(
    model: PreTrainedModel, layer: nn.Module, texts: Sequence[Tensor]
) -> list[_Call]:
    calls: list[_Call] = []

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs.pop("hidden_states")
        calls.append(_Call(hidden, args[1:], kwargs))
        raise _Reached

    hook = layer.register_forward_pre_hook(keep, with_kwargs=True)
    for text in texts:
        try:
            model(input_ids=text[None], use_cache=False)
        except _Reached:
            continue
    hook.remove()
    return calls


@contextmanager
def _watched(linears: dict[str, nn.Linear]) -> Iterator[dict[str, Seen]]:
    """Sees what goes into them."""
    seen = {name: Seen(linear.in_features) for name, linear in linears.items()}
    hooks = [
        linear.register_forward_pre_hook(lambda m, args, each=seen[name]: each.add(args[0]))
        for name, linear in linears.items()
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def _packed(solved: Solved, bits: int) -> dict[str, Tensor]:
    # the first version of the format keeps zeros less one
    zeros = (solved.zeros.int() - 1) & ((1 << bits) - 1)
    return {
        "qweight": pack(solved.numbers, bits).t().contiguous(),
        "qzeros": pack(zeros.t(), bits).contiguous(),
        "scales": solved.scales.t().contiguous(),
        "g_idx": solved.groups.contiguous(),
    }


def _write(
    source: Path,
    checkpoint: Checkpoint,
    folder: Path,
    solved: dict[str, Solved],
    rules: Rules,
    wish: QuantizeWish,
) -> None:
    tensors: dict[str, Tensor] = {}
    for name, tensor in checkpoint.read(None, lambda *told: None).items():
        layer = name.removesuffix(".weight")
        if layer in solved and name != layer:
            tensors |= {
                f"{layer}.{key}": each for key, each in _packed(solved[layer], rules.bits).items()
            }
        else:
            tensors[name] = tensor
    _save(tensors, folder)
    told = {
        "quant_method": "gptq",
        "bits": rules.bits,
        "group_size": rules.group_size or -1,
        "desc_act": rules.orders,
        "sym": rules.symmetric,
        "damp_percent": rules.damping,
        "checkpoint_format": "gptq",
        "lm_head": False,
        "true_sequential": False,
    }
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(
        json.dumps({**config, "quantization_config": told}, indent=2)
    )
    (folder / "quantize_config.json").write_text(json.dumps(told, indent=2))
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file.name not in _NOT_COPIED:
                shutil.copyfile(file, folder / file.name)


def _save(tensors: dict[str, Tensor], folder: Path) -> None:
    """In files of a few gigabytes, with an index if there are several."""
    parts: list[dict[str, Tensor]] = [{}]
    held = 0
    for name, tensor in tensors.items():
        if held and held + tensor.nbytes > _FILE_BYTES:
            parts.append({})
            held = 0
        parts[-1][name] = tensor
        held += tensor.nbytes
    if len(parts) == 1:
        save_file(parts[0], folder / "model.safetensors", metadata={"format": "pt"})
        return
    names: dict[str, str] = {}
    for number, part in enumerate(parts, 1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        save_file(part, folder / file, metadata={"format": "pt"})
        names |= dict.fromkeys(part, file)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": names,
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
