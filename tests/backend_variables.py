"""TGI's variables for one device, as the backends that are installed here tell of them."""

from __future__ import annotations

from tgi_core.contract import BackendSpec
from tgi_core.plugin.manager import Plugins


def specs() -> list[BackendSpec]:
    """Of the backends that have any, by name."""
    found = Plugins().load_all_backends().specs
    return [spec for _, spec in sorted(found.items()) if spec.variables or spec.idle_variables]
