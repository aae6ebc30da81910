"""What the small files of a model's folder say about its images."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgi_core.errors import BadModel

_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Facts:
    """The files, as they are."""

    config: Mapping[str, Any]
    """config.json."""
    image_processor: Mapping[str, Any]
    """preprocessor_config.json, or what transformers 5 puts into processor_config.json."""
    bos_token: str

    @property
    def vision(self) -> Mapping[str, Any]:
        """The vision tower's part of config.json."""
        found: Mapping[str, Any] = self.config.get("vision_config") or {}
        return found


def read_facts(folder: Path, bos_token: str | None) -> Facts:
    """Reads the files; those that are absent are empty.

    Raises:
        BadModel: a file is no JSON object.
    """
    processor = _read(folder / "processor_config.json")
    image_processor = _read(folder / "preprocessor_config.json")
    return Facts(
        config=_read(folder / "config.json"),
        image_processor=image_processor or processor.get("image_processor") or {},
        bos_token=bos_token or "",
    )


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as file:
            found = json.loads(file.read(_LARGEST_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise BadModel(f"{path} cannot be read ({error}).") from error
    if not isinstance(found, dict):
        raise BadModel(f"{path} holds no JSON object.")
    return found
