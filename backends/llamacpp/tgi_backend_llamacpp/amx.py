"""Finds out whether llama.cpp's AMX kernels survive on this machine, and what to do if not.

A llama.cpp that gcc 12 compiled dies by a signal at the first decode of a quantized model on a
CPU with AMX. Weights kept out of the "extra buffer types" never reach those kernels. So, where
the CPU has AMX, a child process tries a tiny model first. Knows nothing of the model to serve.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tgi_backend_llamacpp.tiny_gguf import WeightType, write_tiny_model
from tgi_core.contract import cpu_flags

_TIMEOUT_S = 60

ChildCommand = Callable[[Path, bool], list[str]]
"""The command that tries the model at a path, with extra buffers or without."""


@dataclass(frozen=True, slots=True)
class BufferChoice:
    """How models must be loaded here."""

    usable: bool
    """False if llama.cpp dies either way."""
    extra_buffers: bool
    note: str = ""
    """What an operator should know; empty if all is well."""


def child_command(model: Path, extra_buffers: bool) -> list[str]:
    """Runs `amx_check` in this Python."""
    command = [sys.executable, "-m", "tgi_backend_llamacpp.amx_check", str(model)]
    return command if extra_buffers else [*command, "--no-extra-buffers"]


def choose_buffers(flags: Collection[str], command: ChildCommand = child_command) -> BufferChoice:
    """Tries a tiny quantized model in a child process, if the CPU has AMX at all."""
    if not any(flag.startswith("amx") for flag in flags):
        return BufferChoice(usable=True, extra_buffers=True)
    with tempfile.TemporaryDirectory(prefix="tgi-amx-") as folder:
        model = Path(folder) / "tiny.gguf"
        write_tiny_model(model, WeightType.Q8_0, WeightType.Q4_0)
        failure = _failure(command(model, True))
        if not failure:
            return BufferChoice(usable=True, extra_buffers=True)
        second = _failure(command(model, False))
    remedy = (
        "Build llama-cpp-python with gcc 13 or later, or with CMAKE_ARGS that set -mno-amx-tile "
        "-mno-amx-int8 -mno-amx-bf16."
    )
    if second:
        return BufferChoice(
            usable=False,
            extra_buffers=False,
            note=f"llama.cpp cannot decode a quantized model on this CPU ({second}). {remedy}",
        )
    return BufferChoice(
        usable=True,
        extra_buffers=False,
        note=f"this build's AMX kernels fail ({failure}) and are not used; quantized models run "
        f"on the CPU's other instructions. {remedy}",
    )


@cache
def buffer_choice() -> BufferChoice:
    """The answer for this machine; it cannot change while the process lives."""
    return choose_buffers(cpu_flags())


def _failure(command: list[str]) -> str:
    """How the command failed; empty if it did not."""
    try:
        status = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S
        ).returncode
    except subprocess.TimeoutExpired:
        return f"no answer in {_TIMEOUT_S} s"
    except OSError as error:
        return str(error)
    if status < 0:
        return f"died by signal {-status}"
    return f"exit status {status}" if status else ""
