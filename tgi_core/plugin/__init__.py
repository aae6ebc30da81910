"""What a plugin's module imports: the marker for its hook implementations."""

from pluggy import HookimplMarker, HookspecMarker

PROJECT = "tgi"

hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)

__all__ = ["PROJECT", "hookimpl", "hookspec"]
