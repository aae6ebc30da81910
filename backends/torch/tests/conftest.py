"""Tiny random models on disk, and torch backends with them."""

from pathlib import Path

import pytest
import transformers
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
from tests.thread_ranks import ThreadRanks
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


@pytest.fixture
def ranks(tmp_path):
    made = []

    def start(folder: Path, size: int, **wishes) -> ThreadRanks:
        # ranks find each other through a file: one that others met at before would mislead them
        meeting = tmp_path / f"ranks-{len(made)}"
        meeting.mkdir()
        made.append(ThreadRanks(folder, size, meeting, **wishes))
        return made[-1]

    yield start
    for each in made:
        each.close()


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
