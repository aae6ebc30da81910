"""Log lines of both processes, on standard error."""

from __future__ import annotations

import logging
import sys


def configure_logging(level: str) -> None:
    """One line a record: time, level, module, message.

    Args:
        level: "DEBUG", "INFO", "WARNING" or "ERROR".
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
