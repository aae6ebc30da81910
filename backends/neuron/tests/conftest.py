"""Neuron is simulated: see tests/simulators. Models are compiled by the command that users run."""

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.families import request_for
from tests.simulators.neuron_runtime import install

SIMULATOR = Path(__file__).parents[3] / "tests" / "simulators" / "neuron"


IS_REAL = find_spec("optimum") is not None and find_spec("optimum.neuron") is not None
"""Whether optimum-neuron is installed, as in the environment that `make neuron` makes."""


@pytest.fixture(scope="session", autouse=True)
def neuron(tmp_path_factory):
    """A simulated optimum-neuron, or the real one on a double of its runtime."""
    with pytest.MonkeyPatch.context() as patch:
        if IS_REAL:
            install(patch, tmp_path_factory.mktemp("installed"))
        else:
            patch.syspath_prepend(str(SIMULATOR))
        yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "optimum"]:
        del sys.modules[name]


@pytest.fixture(scope="session")
def export():
    """Runs `tgi neuron-export` with the arguments of its command line."""
    from tgi_backend_neuron.commands import add_arguments, run

    def export_model(*words: object) -> None:
        parser = argparse.ArgumentParser()
        add_arguments(parser)
        assert run(parser.parse_args([str(word) for word in words]), None) == 0

    return export_model


@pytest.fixture
def load():
    """Loads a backend, and closes it after the test."""
    from tgi_backend_neuron.backend import NeuronBackend

    backends = []

    def load_backend(folder: Path, **wishes) -> NeuronBackend:
        backend = NeuronBackend()
        wishes = {"cache_tokens": None, "dtype": None, **wishes}
        backend.capabilities = backend.load(request_for(folder, **wishes), lambda *_: None)
        backends.append(backend)
        return backend

    yield load_backend
    for backend in backends:
        backend.close()
