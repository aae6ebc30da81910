"""How each family of models writes an image into a prompt: one file a family."""

from tgi_core.images.layouts.choose import layout_of
from tgi_core.images.layouts.layout import ImageLayout, Size

__all__ = ["ImageLayout", "Size", "layout_of"]
