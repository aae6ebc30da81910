"""Reads a folder of safetensors files. Knows file names and tensors, not what they mean."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tgi_core.contract import Progress
from tgi_core.errors import BadModel

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_DTYPES = {
    **_FLOATS,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Which file holds which tensor; all headers have been read and make sense."""

    files: Mapping[Path, tuple[str, ...]]
    """Tensor names by file."""
    num_numbers: Mapping[torch.dtype, int]
    """How many numbers there are of each floating dtype."""
    num_bytes: int
    """Size of all files."""

    @property
    def dtype(self) -> torch.dtype:
        """That of most numbers; bfloat16 if none is of a dtype that we compute in."""
        if not self.num_numbers:
            return torch.bfloat16
        return max(self.num_numbers, key=lambda dtype: self.num_numbers[dtype])

    def empty(self) -> dict[str, Tensor]:
        """Tensors as the files hold them, without their numbers: for where they take no memory."""
        tensors: dict[str, Tensor] = {}
        for path, names in self.files.items():
            with _open(path) as file:
                for name in names:
                    part = file.get_slice(name)
                    dtype = _DTYPES.get(part.get_dtype(), torch.uint8)
                    tensors[name] = torch.empty(part.get_shape(), dtype=dtype)
        return tensors

    def read(self, dtype: torch.dtype | None, progress: Progress) -> dict[str, Tensor]:
        """All tensors, in the dtype that the files hold them in.

        Those that are of `dtype` already are copied into memory. The others stay mapped, because
        whoever converts them makes the copy; for None all of them do.

        Raises:
            BadModel: a file cannot be read.
        """
        tensors: dict[str, Tensor] = {}
        done = 0
        progress("loading weights", 0, self.num_bytes, "bytes")
        for path, names in self.files.items():
            with _open(path) as file:
                for name in names:
                    try:
                        tensor = file.get_tensor(name)
                    except (SafetensorError, OSError) as error:
                        raise BadModel(
                            f"{path}: tensor {name} cannot be read ({error})."
                        ) from error
                    tensors[name] = tensor.clone() if tensor.dtype == dtype else tensor
                    done += tensor.nbytes
                    progress("loading weights", done, self.num_bytes, "bytes")
        # headers are part of the files, but of no tensor
        progress("loading weights", self.num_bytes, self.num_bytes, "bytes")
        return tensors


@dataclass(frozen=True, slots=True)
class MappedWeights:
    """The tensors of a checkpoint, none of which is copied into memory before it is used."""

    checkpoint: Checkpoint

    def read(self, dtype: torch.dtype, progress: Progress) -> dict[str, Tensor]:
        """All tensors, in the dtype that the files hold them in; see `Checkpoint.read`."""
        return self.checkpoint.read(None, progress)


def find_checkpoint(folder: Path) -> Checkpoint:
    """Finds the weights in a folder and reads the headers of all files.

    With an index the index decides, and other files are left alone. Without one the folder must
    hold model.safetensors, or a single file of another name.

    Raises:
        BadModel: naming the file that is absent, damaged, or not as the index says.
    """
    index = folder / _INDEX
    wanted = _read_index(index) if index.is_file() else _without_index(folder)
    files: dict[Path, tuple[str, ...]] = {}
    numbers: dict[torch.dtype, int] = defaultdict(int)
    total = 0
    for path, names in wanted.items():
        with _open(path) as file:
            held = set(file.keys())
            if names is not None and (absent := sorted(names - held)):
                raise BadModel(
                    f"{index} says that {path.name} holds {_some(absent)}, and it does not: "
                    "fetch the model again."
                )
            files[path] = tuple(sorted(names or held))
            for name in files[path]:
                part = file.get_slice(name)
                count = 1
                for size in part.get_shape():
                    count *= size
                if part.get_dtype() in _FLOATS:
                    numbers[_FLOATS[part.get_dtype()]] += count
        total += path.stat().st_size
    return Checkpoint(files, dict(numbers), total)


def _read_index(index: Path) -> dict[Path, set[str] | None]:
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        pairs = [(str(name), str(file)) for name, file in weight_map.items()]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{index} is not an index of safetensors files ({error!r}).") from error
    wanted: dict[Path, set[str] | None] = {}
    by_file: dict[str, set[str]] = defaultdict(set)
    for name, file in pairs:
        by_file[file].add(name)
    for file, names in sorted(by_file.items()):
        if Path(file).name != file:
            raise BadModel(f"{index} names {file!r}, which is not a file beside it.")
        wanted[index.parent / file] = names
    absent = [path.name for path in wanted if not path.is_file()]
    if absent:
        raise BadModel(
            f"{index.parent} lacks {_some(absent)} of {len(wanted)} files that its index names: "
            "fetch the model again."
        )
    if not wanted:
        raise BadModel(f"{index} names no files.")
    return wanted


def _without_index(folder: Path) -> dict[Path, set[str] | None]:
    if (folder / _SINGLE).is_file():
        return {folder / _SINGLE: None}
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise BadModel(
            f"{folder} holds no weights: no *.safetensors file. Pickled ones (*.bin) must be "
            "converted first: tgi convert FOLDER TARGET --backend torch."
        )
    if len(found) > 1:
        raise BadModel(
            f"{folder} holds {len(found)} safetensors files, but neither {_SINGLE} nor {_INDEX} "
            "to say which of them make up the model."
        )
    return {found[0]: None}


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise BadModel(
            f"{path} is damaged or incomplete ({error}): fetch the model again."
        ) from error


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown} and {len(names) - 3} more"
