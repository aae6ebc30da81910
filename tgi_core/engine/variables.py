"""What the environment says to the backend that serves, in TGI's names for its device."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace

from tgi_core.contract import BackendSpec, LoadRequest

logger = logging.getLogger(__name__)


def with_variables(
    load: LoadRequest, spec: BackendSpec, environment: Mapping[str, str]
) -> LoadRequest:
    """The request with the options that variables set; tells of variables that set nothing.

    Args:
        load: what the operator wants; its options come first.
        spec: of the backend that was chosen.
        environment: all variables.
    """
    for name, why in spec.idle_variables.items():
        if name in environment:
            logger.warning("%s has no effect: %s.", name, why)
    options = dict(load.options)
    for name, option in spec.variables.items():
        value = environment.get(name)
        if value and option not in load.options:
            logger.info("%s sets the option %s=%s", name, option, value)
            options[option] = value
    return replace(load, options=options)
