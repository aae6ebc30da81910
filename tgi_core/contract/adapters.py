"""Adapters: small matrices that change a model for some rows of a step and not for others.

A backend that holds them implements `HoldsAdapters` besides `StepBackend`, and says in
`Capabilities.adapters` how they may be mixed. What an adapter's files look like is the backend's
business; core knows a folder, or a file, and a number of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol, runtime_checkable

from tgi_core.errors import BadAdapter

_MOST_FILES = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRef:
    """An adapter that is on this machine, as it was when it was loaded."""

    name: str
    """What clients call it."""
    path: Path
    """A folder, or a file."""
    version: str
    """Another one as soon as a file changes; keys and values in the cache belong to it."""

    @classmethod
    def at(cls, name: str, path: Path) -> AdapterRef:
        """The adapter that lies at a path now.

        Raises:
            BadAdapter: nothing is there, or it cannot be read.
        """
        return cls(name=name, path=path, version=version_of(path))


def version_of(path: Path) -> str:
    """Hexadecimal digits that tell this state of a file, or of a folder's files, from others.

    Goes by names, sizes and times of change, not by contents, which may be large.

    Raises:
        BadAdapter: nothing is there, or it cannot be read.
    """
    digest = blake2b(str(path).encode(errors="surrogateescape"), digest_size=16)
    try:
        files = sorted(path.iterdir()) if path.is_dir() else [path]
        if len(files) > _MOST_FILES:
            raise BadAdapter(f"its folder holds {len(files)} files, which is no adapter's")
        for file in files:
            if file.is_dir():
                continue
            status = file.stat()
            told = f"{file.name}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}\0"
            digest.update(told.encode(errors="surrogateescape"))
    except OSError as error:
        raise BadAdapter(f"its files cannot be read ({error.strerror})") from error
    return digest.hexdigest()


@runtime_checkable
class HoldsAdapters(Protocol):
    """A backend whose rows may have adapters."""

    def read_adapter(self, path: Path) -> object:
        """Reads an adapter and checks all of it against the model, which stays as it is.

        Called from another thread, beside steps, so that nobody waits for a disk.

        Raises:
            BadAdapter: the files are damaged, do not fit the model, or ask for something that
                this backend does not do; names what it is.
        """
        ...

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """Puts what `read_adapter` returned at a place from 1 to `LoadRequest.max_adapters`.

        Called between steps; a step that was started before still computes with what was there.
        None empties the place. Rows with `Step.adapter` 0 are the base model's: to the bit in steps
        without adapters, and beside rows that have one as exactly as beside any neighbour.
        """
        ...
