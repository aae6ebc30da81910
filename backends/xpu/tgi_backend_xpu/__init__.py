"""Intel GPUs: the torch backend on upstream torch's `xpu` device."""
