"""The adapters that clients may ask for, by name: what is known, what is added and what goes.

The engine knows no names: each request brings the adapter that it is for, so an engine that takes
the place of a dead one needs no telling. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from tgi_core.api.errors import UnknownAdapter
from tgi_core.contract import AdapterRef
from tgi_core.errors import BadAdapter, ValidationError
from tgi_core.ipc.generation import EngineClient

_NAME = re.compile(r"[A-Za-z0-9._/~][A-Za-z0-9._/~:@+-]{0,255}")
_BASE_NAMES = ("tgi", "base")
"""What clients call the model itself."""


class Adapters:
    """All of one server. Use from one event loop."""

    def __init__(self, engine: EngineClient, model_id: str, most: int) -> None:
        """Knows no adapter yet.

        Args:
            engine: what reads them.
            model_id: name of the model that they are for, which no adapter may have.
            most: how many there may be.
        """
        self._engine = engine
        self._model_id = model_id
        self._most = most
        self._known: dict[str, AdapterRef] = {}
        self._loading: set[str] = set()

    @property
    def names(self) -> tuple[str, ...]:
        """In the order in which they were added."""
        return tuple(self._known)

    def get(self, name: str) -> AdapterRef | None:
        """The adapter of that name."""
        return self._known.get(name)

    def find(self, name: str) -> AdapterRef:
        """The adapter of that name.

        Raises:
            ValidationError: there is none.
        """
        adapter = self._known.get(name)
        if adapter is None:
            raise ValidationError(
                "`adapter_id` names no adapter of this server; GET /v1/models names those that "
                "there are"
            )
        return adapter

    async def load(self, name: str, path: Path) -> None:
        """Adds the adapter at a path, once the engine has found no fault with it.

        Raises:
            ValidationError: the name is taken or makes no sense, or there are too many.
            BadAdapter: it cannot be used, and why.
            EngineError: nobody can tell.
        """
        self._check_name(name)
        self._loading.add(name)
        try:
            adapter = await asyncio.to_thread(AdapterRef.at, name, path)
            await self._engine.load_adapter(adapter)
            self._known[name] = adapter
        finally:
            self._loading.discard(name)

    def unload(self, name: str) -> None:
        """Forgets an adapter. Requests that are open go on with it.

        Raises:
            UnknownAdapter: there is none of that name.
        """
        adapter = self._known.pop(name, None)
        if adapter is None:
            raise UnknownAdapter(
                "No such adapter is loaded here; GET /v1/models names those that are."
            )
        self._engine.drop_adapter(adapter)

    def _check_name(self, name: str) -> None:
        if not _NAME.fullmatch(name) or ".." in name:
            raise ValidationError(
                "`lora_name` must have 1 to 256 characters, letters, digits and ._/~:@+- only, "
                "without two dots in a row"
            )
        if name in (self._model_id, *_BASE_NAMES):
            raise ValidationError(f"`lora_name` cannot be {name!r}, which names the model itself")
        if name in self._known or name in self._loading:
            raise ValidationError(
                f"an adapter {name!r} is loaded already; unload it first to load another one"
            )
        if len(self._known) + len(self._loading) >= self._most:
            raise ValidationError(
                f"{self._most} adapters are loaded, and this server takes no more "
                "(--max-lora-adapters); unload one first"
            )


def adapter_within(folder: Path, wanted: str) -> Path:
    """The folder of an adapter that a client names, which must lie within `folder`.

    Links are followed first, those of the files too, so none leads out.

    Raises:
        BadAdapter: it is not there, or leads elsewhere. Says the same of both: what else lies on
            this machine is nobody's business.
    """
    refusal = BadAdapter("there is no such folder within --lora-folder")
    if "\0" in wanted or len(wanted) > 4096:
        raise refusal
    try:
        root = folder.resolve(strict=True)
        path = (root / wanted).resolve(strict=True)
        inside = path.is_relative_to(root) and path != root and path.is_dir()
        if not inside or not all(
            file.resolve(strict=True).is_relative_to(root) for file in path.iterdir()
        ):
            raise refusal
    except (OSError, RuntimeError) as error:  # a ring of links is a RuntimeError
        raise refusal from error
    return path
