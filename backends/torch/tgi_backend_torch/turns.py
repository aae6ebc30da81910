"""What rank 0 tells the others, and what they answer. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tgi_backend_torch.device import DeviceOfRanks
from tgi_backend_torch.runner import TorchBackend
from tgi_core.contract import LoadRequest, LoraAdapter, Step


@dataclass(frozen=True, slots=True)
class Begin:
    """The first message to a rank."""

    request: LoadRequest
    kind: type[TorchBackend]
    """What the rank is."""
    device: DeviceOfRanks
    rank: int
    size: int
    meeting_point: Path


@dataclass(frozen=True, slots=True)
class Reserve:
    """As `StepBackend.reserve`; it has been seen that there is room."""

    seq: int
    length: int


@dataclass(frozen=True, slots=True)
class Fork:
    """As `StepBackend.fork`."""

    src: int
    dst: int
    length: int


@dataclass(frozen=True, slots=True)
class Truncate:
    """As `StepBackend.truncate`."""

    seq: int
    length: int


@dataclass(frozen=True, slots=True)
class Release:
    """As `StepBackend.release`."""

    seq: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Nothing needs what was encoded of an image any more."""

    image: int


@dataclass(frozen=True, slots=True)
class SetAdapter:
    """As `HoldsAdapters.set_adapter`, with all of the adapter, which has been checked."""

    place: int
    adapter: LoraAdapter | None


Change = Reserve | Fork | Truncate | Release | SetAdapter | Forget


@dataclass(frozen=True, slots=True)
class Turn:
    """A step, and what happened before it."""

    changes: tuple[Change, ...]
    step: Step
    """Its images are the numbers that `Look` gave them."""
    embeds: bool
    """Whether hidden states are wanted, and no logits."""


@dataclass(frozen=True, slots=True)
class Look:
    """As `EncodesImages.encode_image`, and what happened before it."""

    changes: tuple[Change, ...]
    image: int
    pixels: Any


@dataclass(frozen=True, slots=True)
class WarmUp:
    """As `TorchBackend.warm_up`: with the same steps, and so the same exchanges, on all ranks."""


@dataclass(frozen=True, slots=True)
class Close:
    """As `Device.close`; nothing comes after it."""


@dataclass(frozen=True, slots=True)
class Keep:
    """What rank 0 has sampled for the outputs of the last step comes from it, and is kept."""

    num_outputs: int


Message = Turn | Look | WarmUp | Keep | Close
"""What ranks are told once they have loaded."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What a rank answers that cannot load its part."""

    kind: str
    """The class of the error."""
    message: str


def with_images(step: Step, found: Callable[[Any], Any]) -> Step:
    """A step with something else for what was encoded of its images."""
    images = tuple(replace(image, encoded=found(image.encoded)) for image in step.images)
    return replace(step, images=images) if images else step
