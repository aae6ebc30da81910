"""The hardware-agnostic core of a drop-in successor to Text Generation Inference."""

__version__ = "0.1.0"
