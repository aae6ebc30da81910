"""The saved form of a converted model: a graph with holes where attention goes, and a manifest.

OpenVINO cannot read back a graph that holds its paged attention operation. So the graph is saved
as plain OpenVINO with attention cut out: layer N's queries, keys and values are outputs, and what
attention makes of them is an input. `graph.py` puts the operation in when a model is loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tgi_core.errors import BadModel

MANIFEST = "tgi_openvino.json"
"""Is written last, so a folder without it is no converted model."""
GRAPH = "model.xml"
WEIGHTS = "model.bin"
FORMAT = 2
"""Changes whenever older files can no longer be read, or should not be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerForm:
    """What one attention layer computes."""

    heads: int
    kv_heads: int
    key_dim: int
    value_dim: int
    scaling: float
    """What scores are multiplied by."""
    window: int | None = None
    """A token sees itself and this many - 1 before it; None: all before it."""
    sinks: tuple[float, ...] | None = None
    """A score per head that takes its share of the softmax, and adds nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What the graph does not say itself."""

    layers: tuple[LayerForm, ...]
    vocab_size: int
    longest: int | None
    """Positions that the model was made for; None if it does not say."""
    weights: str
    """Data type of the weights, for people: "bfloat16", "int8"."""
    linears: tuple[str, ...]
    """Layers that every token goes through, by name: those that an adapter may change."""
    made_by: Mapping[str, str]
    """Versions of the packages that took part."""


def input_name(layer: int) -> str:
    """The hole that takes the result of attention, (T, heads * value_dim)."""
    return f"attention.{layer}"


def output_names(layer: int) -> tuple[str, str, str]:
    """Queries (T, heads * key_dim), keys (T, kv_heads * key_dim), values (..., value_dim)."""
    return f"query.{layer}", f"key.{layer}", f"value.{layer}"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Seals a folder whose graph and weights are written: notes their sizes and hashes."""
    files = {name: file_hash(folder / name) for name in (GRAPH, WEIGHTS)}
    content = {"format": FORMAT, "files": files, **asdict(manifest)}
    (folder / MANIFEST).write_text(json.dumps(content, indent=1))


def read_manifest(
    folder: Path, progress: Callable[[int, int], None] = lambda done, total: None
) -> Manifest:
    """Reads the manifest after it has checked every byte of the files that it names.

    Args:
        folder: a converted model.
        progress: is told how many bytes of all have been checked.

    Raises:
        BadModel: something is absent, damaged or of another format.
    """
    path = folder / MANIFEST
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        if (found := content.pop("format")) != FORMAT:
            raise BadModel(
                f"{folder} was converted to format {found}, and this is format {FORMAT}."
            )
        files = dict(content.pop("files"))
        layers = tuple(
            LayerForm(**{**layer, "sinks": layer["sinks"] and tuple(layer["sinks"])})
            for layer in content.pop("layers")
        )
        linears = tuple(content.pop("linears"))
        manifest = Manifest(layers=layers, linears=linears, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadModel(f"{path} is no manifest of a converted model ({error!r}).") from error
    sizes = {name: _size(folder / name) for name in files}
    done, total = 0, sum(sizes.values())
    for name, expected in files.items():
        if file_hash(folder / name, lambda n, before=done: progress(before + n, total)) != expected:
            raise BadModel(f"{folder / name} is damaged: it is not what was converted.")
        done += sizes[name]
    return manifest


def file_hash(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    """SHA-256 of a file; `progress` is told how many bytes have been read.

    Raises:
        BadModel: the file cannot be read.
    """
    digest, done, buffer = hashlib.sha256(), 0, bytearray(1 << 22)
    try:
        with path.open("rb", buffering=0) as file:
            while n := file.readinto(buffer):
                digest.update(memoryview(buffer)[:n])
                done += n
                progress(done)
    except OSError as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
    return digest.hexdigest()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
