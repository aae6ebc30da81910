"""NVIDIA GPUs: fills the device seam of the torch backend."""
