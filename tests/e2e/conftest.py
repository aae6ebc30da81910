"""The real model, and servers as a user starts them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ServerFactory, running
from tests.smollm2 import put_folder, put_gguf

MODELS = Path(__file__).parents[2] / ".models"


@pytest.fixture(scope="session", autouse=True)
def caches(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[None]:
    """Servers convert models into a folder of this session; all its processes share it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if hasattr(request.config, "workerinput") else own) / "caches"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a Hugging Face folder."""
    return put_folder(MODELS / "smollm2-135m-instruct")


@pytest.fixture(scope="session")
def smollm2_gguf() -> Path:
    """The same model as a quantized GGUF file."""
    return put_gguf(MODELS)


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> ServerFactory:
    """Starts `tgi serve` with arguments; see `running`."""
    return lambda *arguments, **more: running(
        sys.executable, tmp_path_factory.mktemp("server"), *arguments, **more
    )
