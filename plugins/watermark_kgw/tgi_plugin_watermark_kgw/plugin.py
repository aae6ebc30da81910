"""The plugin's entry point: the adjustment for the engine, the command for people."""

from __future__ import annotations

from collections.abc import Sequence

from tgi_core.contract import Adjustment, Command
from tgi_core.plugin import hookimpl
from tgi_plugin_watermark_kgw.detect import add_arguments, run
from tgi_plugin_watermark_kgw.watermark import Watermark


@hookimpl
def tgi_adjustments(
    watermark_gamma: float, watermark_delta: float, watermark_key: int
) -> Sequence[Adjustment]:
    """What `"watermark": true` asks for."""
    return [Watermark(watermark_gamma, watermark_delta, watermark_key)]


@hookimpl
def tgi_commands() -> Sequence[Command]:
    """`tgi watermark detect`."""
    return [
        Command(
            name="watermark",
            contract=(1, 0),
            summary="tell whether a text carries the watermark of this server",
            add_arguments=add_arguments,
            run=run,
        )
    ]
