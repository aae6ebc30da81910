"""Choosing tokens: the numpy sampler that defines the result. Knows no request and no device."""
