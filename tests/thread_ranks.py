"""All ranks of a torch model in threads of one process, which costs least."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.group import connect_on_this_host
from tgi_backend_torch.runner import TorchBackend

from tests.families import request_for


class Meeting:
    """Of threads, one of which loads at a time: transformers keeps global state while it does."""

    loading = Lock()

    def __init__(self, rank: int, size: int, folder: Path) -> None:
        self.rank, self.size, self.folder = rank, size, folder
        self.loads = False

    def begin(self):
        self.loading.acquire()
        self.loads = True

    def end(self):
        if self.loads:
            self.loads = False
            self.loading.release()

    def join(self):
        self.end()
        return connect_on_this_host(self.folder / "meeting", self.rank, self.size)


class ThreadRanks:
    """All ranks of a model, each in a thread; answers are those of rank 0."""

    def __init__(self, folder: Path, size: int, tmp_path: Path, **wishes) -> None:
        self._pool = ThreadPoolExecutor(size)
        self.ranks = [
            TorchBackend(CpuDevice(size), Meeting(rank, size, tmp_path)) for rank in range(size)
        ]
        request = request_for(folder, num_shards=size, **wishes)

        def load(rank: TorchBackend):
            rank._meeting.begin()
            try:
                return rank.load(request, lambda *told: None)
            finally:  # of one that refuses
                rank._meeting.end()

        self.capabilities = self._all(load)[0]

    def _all(self, do):
        return list(self._pool.map(do, self.ranks))

    def read_adapter(self, path: Path):
        """Each reads it, and has its part."""
        return self._all(lambda rank: rank.read_adapter(path))

    def set_adapter(self, place: int, adapters) -> None:
        parts = dict(zip(self.ranks, adapters or [None] * len(self.ranks), strict=True))
        self._all(lambda rank: rank.set_adapter(place, parts[rank]))

    def close(self) -> None:
        self._all(lambda rank: rank.close())
        self._pool.shutdown()

    def __getattr__(self, name):
        return lambda *args: self._all(lambda rank: getattr(rank, name)(*args))[0]
