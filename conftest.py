"""What holds for the tests of all packages."""

import gc
import logging
from collections.abc import Iterator

import pytest


def pytest_collection_finish() -> None:
    """Backends collect garbage when they close: what is here now, libraries above all, is none."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries look for what was never collected when the process ends."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Commands that run in this process configure its log, and libraries silence what is there."""
    root = logging.getLogger()
    level, handlers = root.level, [(handler, handler.level) for handler in root.handlers]
    yield
    root.setLevel(level)
    root.handlers[:] = [handler for handler, _ in handlers]
    for handler, its_level in handlers:
        handler.setLevel(its_level)
    logging.captureWarnings(False)
    for logger in root.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.disabled = False
