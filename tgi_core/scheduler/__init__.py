"""Chooses which sequences run in the next step. Knows nothing of devices, text or HTTP."""
