"""Converts a Hugging Face folder; also the child process that does it for a server.

Needs torch and transformers, which serving does not: `store.py` runs this module in a process of
its own, so the server never holds torch's memory.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from tgi_backend_openvino.form import GRAPH, Manifest, write_manifest
from tgi_backend_openvino.quantize import check_quantization, compress, import_nncf
from tgi_core.contract import Progress
from tgi_core.errors import DoesNotFit, SetupError, UnsupportedModel, UsageError

_PARTICIPANTS = ("tgi-backend-openvino", "openvino", "tgi-backend-torch", "transformers", "torch")
_SPARE_BYTES = 64 << 20


def made_by(quantize: str | None) -> dict[str, str]:
    """Versions of the packages that shape a conversion; "" for those that are not installed."""
    versions = {}
    for package in (*_PARTICIPANTS, *(("nncf",) if quantize else ())):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = ""
    return versions


def convert(source: Path, target: Path, quantize: str | None, progress: Progress) -> None:
    """Writes the converted form of a model into an existing folder, the manifest last.

    Args:
        source: config.json and *.safetensors.
        target: an empty folder.
        quantize: what to make of the weights, see `quantize.py`; None leaves them as they are.
        progress: is told of each stage.

    Raises:
        BadModel: the source is damaged.
        UnsupportedModel: the model cannot be expressed; says why.
        DoesNotFit: the disk is full.
        UsageError: packages are not installed, or `quantize` is unknown.
    """
    try:
        import openvino as ov
        import torch
        from tgi_backend_torch.checkpoint import find_checkpoint
        from tgi_backend_torch.loader import (
            flat_model_class,
            load_model,
            longest_sequence,
            quiet,
            read_config,
        )
        from tgi_backend_torch.quant.formats import refuse_quantized
        from tgi_backend_torch.trial import try_model

        from tgi_backend_openvino.trace import layer_forms, trace
    except ImportError as error:
        raise UsageError(
            f"converting a model needs torch and transformers ({error}): "
            'pip install "tgi-core[cpu]", or convert it elsewhere with `tgi convert`.'
        ) from error
    if quantize is not None:
        check_quantization(quantize)
        import_nncf()
    refuse_quantized(source, None, "models are converted")
    config = read_config(source)
    cls = flat_model_class(config)
    checkpoint = find_checkpoint(source)
    _check_disk(target, checkpoint.num_bytes + _SPARE_BYTES)
    dtype = checkpoint.dtype
    model = load_model(cls, config, checkpoint, dtype, torch.device("cpu"), progress)
    trial = try_model(model)
    forms = layer_forms(trial)
    progress("tracing the model", 0, 1)
    try:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tracing as such, and of shapes that are constant
            graph = trace(model, trial, forms)
    except Exception as error:  # the tracer raises whatever it meets
        raise UnsupportedModel(
            f"OpenVINO cannot express {cls.__name__} ({_last_line(error)}): use --backend torch."
        ) from error
    progress("tracing the model", 1, 1)
    weights = str(dtype).removeprefix("torch.")
    if quantize is not None:
        graph = compress(graph, quantize, progress)
        weights = quantize
    progress("writing the converted model", 0, 1)
    try:
        ov.save_model(graph, target / GRAPH, compress_to_fp16=False)
        write_manifest(
            target,
            Manifest(
                layers=forms,
                vocab_size=trial.vocab_size,
                longest=longest_sequence(config, windowed=trial.windowed),
                weights=weights,
                linears=tuple(trial.adaptable),
                made_by=made_by(quantize),
            ),
        )
    except (OSError, RuntimeError) as error:
        raise DoesNotFit(f"{target} cannot be written ({_last_line(error)}).") from error
    progress("writing the converted model", 1, 1)


def convert_for_serving(
    source: Path, target: Path, quantize: str | None, progress: Progress
) -> None:
    """Makes a folder that is served as it is: converted form, tokenizer and configuration.

    Raises:
        UsageError: the target exists and is not empty; or as `convert`.
        SetupError: as `convert`; the target is removed then.
    """
    if target.exists() and any(target.iterdir()):
        raise UsageError(f"{target} is not empty: give a new folder.")
    target.mkdir(parents=True, exist_ok=True)
    try:
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.endswith((".safetensors", ".index.json", ".bin")):
                shutil.copyfile(file, target / file.name)
        convert(source, target, quantize, progress)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _check_disk(target: Path, need: int) -> None:
    free = shutil.disk_usage(target).free
    if free < need:
        raise DoesNotFit(
            f"the converted model takes about {need >> 20} MiB, and {free >> 20} MiB are free in "
            f"{target.parent}: make room, or choose another place with "
            "--backend-option cache_dir=FOLDER."
        )


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip() if lines else type(error).__name__


def _end_with_parent() -> None:
    """Ends this process when the one that started it has gone, and its pipe with it."""

    def wait() -> None:
        # not sys.stdin: its lock would be held when the interpreter ends
        os.read(0, 1)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _tell(stream: Callable[[str], object]) -> Progress:
    def progress(phase: str, done: float, total: float, unit: str = "") -> None:
        stream(json.dumps({"phase": phase, "done": done, "total": total, "unit": unit}) + "\n")

    return progress


def main(source: str, target: str, quantize: str) -> int:
    """The child: lines of JSON on standard output, progress and at most one error.

    Returns:
        0, or 1 after an error.
    """
    _end_with_parent()
    # whatever libraries print must not come between our lines
    lines = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    try:
        convert(Path(source), Path(target), quantize or None, _tell(lines.write))
    except SetupError as error:
        lines.write(json.dumps({"error": type(error).__name__, "message": str(error)}) + "\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
