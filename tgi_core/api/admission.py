"""How many sequences may be in the server at once. Knows nothing of what they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tgi_core.errors import Overloaded


class Admission:
    """Hands out permits, one for each sequence. For one event loop."""

    def __init__(self, max_concurrent: int) -> None:
        self._free = max_concurrent

    @property
    def free(self) -> int:
        """Permits that are left."""
        return self._free

    @contextmanager
    def permits(self, num: int = 1) -> Iterator[None]:
        """Holds permits inside a `with`.

        Raises:
            Overloaded: there are not that many; none was taken.
        """
        if num > self._free:
            raise Overloaded("too many requests at once")
        self._free -= num
        try:
            yield
        finally:
            self._free += num
