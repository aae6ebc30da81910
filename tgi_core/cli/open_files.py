"""How many files a server may have open: each connection is one. Knows nothing else of it."""

from __future__ import annotations

import logging
import resource

from tgi_core.errors import OutOfResources

logger = logging.getLogger(__name__)

_LEAST = 64
"""What a server without any client and its engine have at most, and a few more."""
_MOST = 65_536
"""Some programs walk through all that may be open."""


def allow_open_files(num_clients: int) -> None:
    """Raises this process's limit as far as the system lets it; engines inherit it.

    Raises:
        OutOfResources: too few even for a server without clients.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < _LEAST:
        raise OutOfResources(
            f"only {allowed} files may be open, and a server needs {_LEAST} at least: raise the "
            "limit with `ulimit -n`, or LimitNOFILE of systemd."
        )
    if allowed < _LEAST + num_clients:
        logger.warning(
            "only %d files may be open, and each connection is one: fewer than the %d requests of "
            "--max-concurrent-requests will get in. `ulimit -n` raises the limit",
            allowed,
            num_clients,
        )
