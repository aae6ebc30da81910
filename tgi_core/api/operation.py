"""Operation: all that is known of one route, for routing, for keys and for the documentation.

Knows no handler by name; `api/table.py` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from tgi_core.api.errors import ErrorStyle, openai_reply, tgi_reply
from tgi_core.api.exchange import Handler
from tgi_core.config.settings import Compat

if TYPE_CHECKING:
    from tgi_core.api.handlers import Handlers


class Access(Enum):
    """Who may call a route if the server has API keys."""

    KEY = auto()
    """Who has a key."""
    ADMIN = auto()
    """Who has a key of an administrator; without such keys in the settings, who has any."""
    TGI_OPEN = auto()
    """Who has a key; everybody with `--compat tgi`, since TGI left the route open."""
    OPEN = auto()
    """Everybody: probes have no keys, and learn nothing but a status."""


class Group(Enum):
    """Whose routes they are."""

    TGI = "Text Generation Inference"
    OPENAI = "OpenAI"
    CLOUDS = "Clouds"
    PROBES = "Probes"
    PLUGINS = "Plugins"


@dataclass(frozen=True, slots=True)
class Operation:
    """One method on one path."""

    method: str
    path: str
    """Parts in braces match anything without a slash."""
    handler: Callable[[Handlers], Handler]
    group: Group
    summary: str
    request: Any = None
    """Type of the JSON body; a tuple if it may be one of several. None if there is no body."""
    response: Any = None
    """Type of the JSON answer; None if it is empty, str if it is something other than JSON."""
    event: Any = None
    """Type of each event, if the answer can be a stream."""
    access: Access = Access.KEY
    media_type: str = "application/json"
    """Of an answer that is no stream."""
    counted_as: str | None = None
    """Names a request for generated text in metrics; None if the route may answer others too."""
    errors: ErrorStyle | None = None
    """How it reports errors, if not as its group does."""

    def is_open(self, compat: Compat) -> bool:
        """Whether it answers without a key."""
        match self.access:
            case Access.OPEN:
                return True
            case Access.TGI_OPEN:
                return compat is Compat.TGI
            case Access.KEY | Access.ADMIN:
                return False

    def error_style(self, compat: Compat) -> ErrorStyle:
        """How it reports errors."""
        if self.errors is not None:
            return self.errors
        openai = self.group is Group.OPENAI and compat is Compat.OPENAI
        return openai_reply if openai else tgi_reply
