"""A model shared by several processes: this one is rank 0, and the others repeat what it does.

Each rank is a backend of its own, with a part of each layer and of the cache. What changes the
cache, and the steps, they are told here; while they compute they exchange results by themselves.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tgi_backend_torch.device import CpuDevice, DeviceOfRanks
from tgi_backend_torch.followers import Followers
from tgi_backend_torch.loader import model_class, read_config, why_not_flat
from tgi_backend_torch.lora import PlacedAdapter
from tgi_backend_torch.runner import TorchBackend
from tgi_backend_torch.shards import check_shards
from tgi_backend_torch.turns import (
    Change,
    Forget,
    Fork,
    Look,
    Message,
    Release,
    Reserve,
    SetAdapter,
    Truncate,
    Turn,
    WarmUp,
    with_images,
)
from tgi_backend_torch.weights import Weights
from tgi_backend_torch.wishes import refuse_unknown
from tgi_core.contract import (
    BackendStats,
    Capabilities,
    Image,
    LoadRequest,
    LoraAdapter,
    PendingLogits,
    Progress,
    ReadImage,
    Step,
)
from tgi_core.errors import BackendDead, UsageError


class SharedImage:
    """An image that all ranks have looked at; they forget it with this."""

    __slots__ = ("__weakref__", "number", "own")

    def __init__(self, number: int, own: Any) -> None:
        self.number = number
        self.own = own
        """What this rank has made of it."""


@dataclass(frozen=True, slots=True)
class SharedAdapter:
    """An adapter that was read, and is not set yet."""

    own: PlacedAdapter
    """What this rank has of it."""
    whole: LoraAdapter | None
    """What the other ranks cut theirs from; None if there are none."""


class RankedBackend:
    """Satisfies `StepBackend`, `Embeds`, `HoldsAdapters`, `EncodesImages` and `HoldsHeads`, with as
    many ranks as `LoadRequest.num_shards` says.
    """

    def __init__(
        self, device: DeviceOfRanks | None = None, kind: type[TorchBackend] = TorchBackend
    ) -> None:
        """
        Args:
            device: what ranks have one, or a part, of.
            kind: what each rank is.
        """
        self._device: DeviceOfRanks = device or CpuDevice()
        self._kind = kind
        self._followers: Followers | None = None
        self._own = kind(self._device)
        self._changes: list[Change] = []
        self._numbers = itertools.count()

    def load(self, request: LoadRequest, progress: Progress) -> Capabilities:
        """Starts the other ranks, if there are any, and loads this one's part."""
        size = request.num_shards or 1
        if size == 1:
            return self._own.load(request, progress)
        refuse_unknown(request, self._device)
        self._refuse_more_than_there_are(size)
        config = read_config(request.model.path)
        cls = model_class(config)
        fault = why_not_flat(cls, config)
        if fault is not None:
            self._own.refuse_padded(request, fault)
        check_shards(cls, config, size)
        Weights.find(request, self._device).check_cuts(cls, config, size)
        if request.num_threads is None:
            request = replace(request, num_threads=max(1, torch.get_num_threads() // size))
        self._followers = Followers(request, self._kind, self._device, size)
        try:
            self._own = self._kind(self._device.of_rank(0, size), self._followers)
            return self._own.load(request, progress)
        except BaseException:
            self.close()
            raise

    def warm_up(self, progress: Progress) -> None:
        """As `TorchBackend.warm_up`, by all ranks."""
        self._tell(WarmUp())
        self._own.warm_up(progress)

    @property
    def limits(self) -> Capabilities:
        """See `TorchBackend.limits`."""
        return self._own.limits

    def reserve(self, seq: int, length: int) -> bool:
        """As `TorchBackend.reserve`; what one rank has room for all have."""
        if not self._own.reserve(seq, length):
            return False
        self._changed(Reserve(seq, length))
        return True

    def fork(self, src: int, dst: int, length: int) -> bool:
        """As `TorchBackend.fork`."""
        self._changed(Fork(src, dst, length))
        return self._own.fork(src, dst, length)

    def truncate(self, seq: int, length: int) -> None:
        """As `TorchBackend.truncate`."""
        self._changed(Truncate(seq, length))
        self._own.truncate(seq, length)

    def release(self, seq: int) -> None:
        """As `TorchBackend.release`."""
        self._changed(Release(seq))
        self._own.release(seq)

    def step(self, step: Step) -> PendingLogits:
        """One step by all ranks; the logits are this one's.

        Raises:
            BackendDead: a rank is gone, or the step failed: then no rank knows what the others
                have in their caches.
        """
        own = self._share(step, embeds=False)
        with self._together():
            return self._own.step(own)

    def embed(self, step: Step) -> NDArray[np.float32]:
        """See `step`."""
        own = self._share(step, embeds=True)
        with self._together():
            return self._own.embed(own)

    def read_adapter(self, path: Path) -> SharedAdapter:
        """As `TorchBackend.read_adapter`; the others are given it when it is set."""
        whole = self._own.read_whole_adapter(path)
        own = self._own.place_adapter(whole)
        return SharedAdapter(own, None if self._followers is None else whole)

    def set_adapter(self, place: int, adapter: object | None) -> None:
        """As `TorchBackend.set_adapter`."""
        # only `read_adapter` makes them
        assert adapter is None or isinstance(adapter, SharedAdapter)
        self._changed(SetAdapter(place, adapter and adapter.whole))
        self._own.set_adapter(place, adapter and adapter.own)

    def load_heads(self, path: Path) -> int:
        """As `TorchBackend.load_heads`; this rank guesses alone."""
        return self._own.load_heads(path)

    def guess(self, logits: PendingLogits, outputs: NDArray[np.int32]) -> NDArray[np.int32]:
        """As `TorchBackend.guess`."""
        return self._own.guess(logits, outputs)

    def read_image(self, image: Image) -> ReadImage:
        """As `TorchBackend.read_image`."""
        return self._own.read_image(image)

    def encode_image(self, pixels: Any) -> Any:
        """As `TorchBackend.encode_image`, by all ranks at once. They exchange nothing meanwhile, so
        each may fail alone.

        Raises:
            BackendDead: a rank is gone.
        """
        if self._followers is None:
            return self._own.encode_image(pixels)
        number = next(self._numbers)
        self._tell(Look(self._taken_changes(), number, pixels))
        image = SharedImage(number, None)
        weakref.finalize(image, self._changed, Forget(number))
        image.own = self._own.encode_image(pixels)
        return image

    def stats(self) -> BackendStats:
        """Of this rank; the others are alike."""
        return self._own.stats()

    def close(self) -> None:
        """Ends all ranks."""
        if self._followers is not None:
            self._followers.close()
            self._followers = None
        self._own.close()

    def _changed(self, change: Change) -> None:
        if self._followers is not None:
            self._changes.append(change)

    def _share(self, step: Step, *, embeds: bool) -> Step:
        """Has the others begin a step; returns it with what this rank has made of its images."""
        if self._followers is None:
            return step
        theirs = with_images(step, lambda image: image.number)
        self._tell(Turn(self._taken_changes(), theirs, embeds))
        return with_images(step, lambda image: image.own)

    def _taken_changes(self) -> tuple[Change, ...]:
        # in this order, as an image may be forgotten at any moment
        changes, self._changes = self._changes, []
        return tuple(changes)

    def _tell(self, message: Message) -> None:
        if self._followers is not None:
            self._followers.tell(message)

    def _refuse_more_than_there_are(self, size: int) -> None:
        most = self._device.most_ranks
        if most is not None and size > most:
            raise UsageError(
                f"--num-shard is {size}, and {self._device.name} has {most} "
                f"{'device' if most == 1 else 'devices'} here: make it smaller, or let this "
                "process see more of them."
            )

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._followers is None:
                raise
            raise BackendDead(f"a step of {self._followers.size} ranks failed: {error}") from error
