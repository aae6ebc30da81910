"""`tgi convert --backend torch`: pickled weights, pytorch_model*.bin, to safetensors.

Only here is a pickle ever opened, when an operator asks for it, and with `weights_only`: torch's
unpickler then makes tensors and plain containers, and refuses whatever else a file asks for.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tgi_core.contract import Progress
from tgi_core.errors import BadModel, CacheUnwritable, UsageError

_INDEX = "pytorch_model.bin.index.json"
_SINGLE = "pytorch_model.bin"
_COPIED = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")


def convert_pickled(source: Path, target: Path, quantize: str | None, progress: Progress) -> None:
    """Writes a folder like `source`, with its weights as safetensors: a file for each of its files.

    Args:
        source: config.json and pytorch_model.bin, or its parts and their index.
        target: a folder that does not exist yet; there is none if anything goes wrong.
        quantize: nothing that this converter knows.
        progress: told of each file.

    Raises:
        BadModel: a file is absent or damaged, or holds more than tensors.
        UsageError: the target exists, or weights are to be quantized.
        CacheUnwritable: the disk does not take it.
    """
    if quantize is not None:
        raise UsageError("the torch backend converts weights as they are: leave out --quantize.")
    if target.exists():
        raise UsageError(f"{target} exists already: name a folder that does not.")
    files = _pickled_files(source)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # beside the target, so that it can take its place in one move
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as work:
            folder = Path(work) / "model"
            folder.mkdir()
            _write(source, files, folder, progress)
            os.replace(folder, target)
    except OSError as error:
        raise CacheUnwritable(f"{target} cannot be written: {error}.") from error


def _pickled_files(source: Path) -> list[Path]:
    index = source / _INDEX
    if index.is_file():
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise BadModel(f"{index} is not an index of weights ({error!r}).") from error
        strange = [str(name) for name in named if Path(str(name)).name != name]
        if strange:
            raise BadModel(f"{index} names {strange[0]!r}, which is not a file beside it.")
        files = sorted(source / str(name) for name in named)
    else:
        files = [source / _SINGLE]
    for file in files:
        if not file.is_file():
            raise BadModel(f"{source} lacks {file.name}: there are no pickled weights to convert.")
    return files


def _write(source: Path, files: list[Path], folder: Path, progress: Progress) -> None:
    names: dict[str, str] = {}
    total = 0
    for done, file in enumerate(files):
        progress("converting weights", done, len(files), "files")
        tensors = _own_memory(_read(file))
        name = f"model-{done + 1:05}-of-{len(files):05}.safetensors"
        if len(files) == 1:
            name = "model.safetensors"
        save_file(tensors, folder / name, metadata={"format": "pt"})
        names |= dict.fromkeys(tensors, name)
        total += sum(tensor.nbytes for tensor in tensors.values())
    if len(files) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    for pattern in _COPIED:
        for file in source.glob(pattern):
            if file.name != _INDEX:
                shutil.copyfile(file, folder / file.name)
    progress("converting weights", len(files), len(files), "files")


def _read(file: Path) -> Mapping[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # of protocols that torch did not write itself: what they hold is checked all the same
            warnings.simplefilter("ignore")
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=_is_zip(file))
    except Exception as error:  # an unpickler raises whatever the bytes lead it to
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise BadModel(
            f"{file} is damaged, or holds more than tensors, which could run code: {reason[0]:.200}"
        ) from error
    if not isinstance(held, dict) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in held.items()
    ):
        raise BadModel(f"{file} does not hold tensors by name.")
    return held


def _is_zip(file: Path) -> bool:
    """Torch maps files of its newer format only."""
    with file.open("rb") as opened:
        return opened.read(4) == b"PK\x03\x04"


def _own_memory(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Each tensor once: of those that share memory, such as tied embeddings, the first one."""
    own: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        own[name] = tensor.contiguous().clone()
    return own
