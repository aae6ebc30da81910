"""Decoder-only transformers models on Intel Gaudi, as a backend for tgi-core."""
