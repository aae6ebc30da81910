"""The compiled models on this machine, found by the folder that they were made of.

Compiling takes minutes to an hour, so it is never done in passing: a server that finds nothing that
fits says what to run. What was left half done is never found.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

from platformdirs import user_cache_path

from tgi_backend_neuron.compiled import CompiledFacts, read_compiled
from tgi_core.errors import CacheUnwritable, SetupError


def default_folder() -> Path:
    """Where compiled models are kept if nobody says otherwise."""
    return user_cache_path("tgi-core") / "neuron"


def compiled_of(store: Path, source: Path) -> dict[Path, CompiledFacts]:
    """All that was compiled of a folder as it is now, those with the most slots first."""
    found: dict[Path, CompiledFacts] = {}
    for folder in sorted((store / _key(source)).glob("[!.]*")):
        try:
            found[folder] = read_compiled(folder)
        except SetupError:
            continue  # made by another release, or damaged: it is compiled again
    most = sorted(found, key=lambda folder: (-found[folder].num_slots, -found[folder].slot_tokens))
    return {folder: found[folder] for folder in most}


def keep(store: Path, source: Path, make: Callable[[Path], None]) -> Path:
    """Has something compiled into the store; it takes the place of an equal one.

    Args:
        store: the folder of all compiled models.
        source: what is compiled.
        make: writes a compiled model to the folder that it is given.

    Raises:
        CacheUnwritable: the disk does not take it.
        SetupError: as `make` does; then nothing is left behind.
    """
    shelf = store / _key(source)
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        unfinished = Path(mkdtemp(prefix=".", dir=shelf))
    except OSError as error:
        raise CacheUnwritable(f"{shelf} cannot be written ({error}).") from error
    try:
        make(unfinished)
        facts = read_compiled(unfinished)
        name = f"{facts.num_slots}x{facts.slot_tokens}-{facts.num_cores}cores-{facts.dtype}"
        finished = shelf / f"{name}-{facts.target}"
        shutil.rmtree(finished, ignore_errors=True)
        return unfinished.rename(finished)
    except OSError as error:
        raise CacheUnwritable(f"{shelf} cannot be written ({error}).") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _key(source: Path) -> str:
    """Changes with the configuration, and with name, size or time of a file of weights.

    Weights are not read: of a large model that takes minutes.
    """
    digest = hashlib.sha256()
    for file in sorted([source / "config.json", *source.glob("*.safetensors")]):
        state = file.stat()
        digest.update(f"{file.name} {state.st_size} {state.st_mtime_ns}\n".encode())
    return f"{source.name}-{digest.hexdigest()[:16]}"
