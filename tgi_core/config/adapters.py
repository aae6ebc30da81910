"""What `--lora-adapters` says: TGI's list of adapters, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tgi_core.errors import UsageError

_ADAPTER = re.compile(r"(?:(?P<name>[^=@]+)=)?(?P<reference>[^=@]+)(?:@(?P<revision>[^=@]+))?")


@dataclass(frozen=True, slots=True)
class WantedAdapter:
    """One adapter of the list."""

    name: str
    """What clients call it."""
    reference: str
    """A folder, or an adapter on the hub."""
    revision: str | None
    """Branch, tag or commit on the hub."""


def wanted_adapters(text: str) -> tuple[WantedAdapter, ...]:
    """Reads `id`, `id@revision`, `name=path` and `name=path@revision`, between commas.

    Raises:
        UsageError: in TGI's words, for what has another form; or a name comes twice.
    """
    found: dict[str, WantedAdapter] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        match = _ADAPTER.fullmatch(part)
        if match is None:
            raise UsageError(f"Invalid LoRA adapter format: {part}")
        reference = match["reference"]
        adapter = WantedAdapter(match["name"] or reference, reference, match["revision"])
        if adapter.name in found:
            raise UsageError(f"--lora-adapters names two adapters {adapter.name!r}.")
        found[adapter.name] = adapter
    return tuple(found.values())
