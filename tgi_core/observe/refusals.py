"""Requests that no route ever saw: counted, and told of in the log. Knows no key and no body."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from tgi_core.observe.catalog import Refusal
from tgi_core.observe.logging import fields

logger = logging.getLogger(__name__)

_LONGEST_PATH = 200


class Refusals:
    """One for each server."""

    def __init__(self) -> None:
        self.counts = dict.fromkeys(Refusal, 0)

    def refused(self, why: Refusal, scope: Mapping[str, Any]) -> None:
        """Notes one.

        Args:
            why: what was wrong.
            scope: ASGI's, of the request. Of its headers none is read, since they hold keys.
        """
        self.counts[why] += 1
        client = scope.get("client")
        told = fields(
            client=client[0] if client else "unknown",
            method=scope.get("method", ""),
            path=scope["path"][:_LONGEST_PATH],
        )
        logger.warning("%s", _WORDS[why], extra=told)


_WORDS = {
    Refusal.KEY: "Refused: no API key, or a wrong one",
    Refusal.ORIGIN: "Refused: a page of an origin that is not allowed",
    Refusal.HOST: "Refused: a host name that is not allowed",
}
