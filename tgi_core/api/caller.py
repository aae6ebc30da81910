"""Who asks, as far as an engine has to know. Knows nothing of HTTP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import msgspec

CacheSalt = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
"""What a client may say to share prefixes only with those who say the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """What comes with a request besides its wishes."""

    tenant: str = ""
    """The same for all who have one API key; empty where none is needed."""
    trace_parent: str | None = None
    """W3C traceparent."""

    def cache_salt(self, wished: str | None) -> str:
        """What only requests share that may share prefixes: of one key, and of one wish.

        A tenant holds hexadecimal digits only, so no wish reads like another's.
        """
        return f"{self.tenant}/{wished}" if wished else self.tenant
