"""Decoder-only transformers models on XLA devices, TPUs above all, as a backend for tgi-core."""
