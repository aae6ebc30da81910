"""Tiny random models on disk, and torch backends with them."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import pytest
import transformers
from tgi_backend_torch.device import CpuDevice
from tgi_backend_torch.group import connect_on_this_host
from tgi_backend_torch.runner import TorchBackend

from tests.families import (
    ENCODING,
    FAMILIES,
    GQA,
    PADDED,
    RECURRENT,
    Driver,
    make_model,
    request_for,
)
from tests.seeing import Seeing
from tgi_core.builtin.queue_policies import FirstComeFirstServed
from tgi_core.engine.limits import EngineLimits
from tgi_core.engine.step_engine import StepEngine

ALL = {**FAMILIES, **PADDED, **RECURRENT, **ENCODING}


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory):
    """Name of a family -> folder with a model of it."""
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            folder = tmp_path_factory.mktemp("models") / "model"
            made[name] = make_model(folder, ALL[name]())
        return made[name]

    return make


@pytest.fixture
def new_model(tmp_path):
    """(config, how to save) -> folder of a model that the test may damage."""
    return lambda config, **saving: make_model(tmp_path / "model", config, **saving)


@pytest.fixture
def llama_config():
    return lambda **more: transformers.LlamaConfig(**{**GQA, **more})


@pytest.fixture
def make_request():
    return request_for


@pytest.fixture
def load():
    """Loads a backend, and closes it after the test."""
    backends = []

    def load_backend(folder: Path, **wishes) -> TorchBackend:
        backend = TorchBackend()
        backend.capabilities = backend.load(request_for(folder, **wishes), lambda *_: None)
        backends.append(backend)
        return backend

    yield load_backend
    for backend in backends:
        backend.close()


@pytest.fixture
def drive(load):
    """Folder -> Driver."""
    return lambda folder, **wishes: Driver(load(folder, **wishes), folder)


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


class Threads:
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

    def __getattr__(self, name):
        return lambda *args: self._all(lambda rank: getattr(rank, name)(*args))[0]


@pytest.fixture
def ranks(tmp_path):
    made = []

    def start(folder: Path, size: int, **wishes) -> Threads:
        made.append(Threads(folder, size, tmp_path, **wishes))
        return made[-1]

    yield start
    for each in made:
        each.close()
        each._pool.shutdown()


@pytest.fixture
def new_engine():
    """(model that takes images, limits, what the backend is told) -> an engine with it."""
    backends = []

    def make(model: Seeing, limits: EngineLimits | None = None, **wishes) -> StepEngine:
        backend = TorchBackend()
        backends.append(backend)
        engine = StepEngine(backend, FirstComeFirstServed(), limits)
        engine.start(request_for(model.folder, **wishes), lambda *_: None)
        return engine

    yield make
    for backend in backends:
        backend.close()
