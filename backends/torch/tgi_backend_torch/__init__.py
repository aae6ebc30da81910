"""Runs decoder-only transformers models with torch; the base of the other torch backends."""
