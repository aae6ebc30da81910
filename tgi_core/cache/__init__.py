"""Which sequences lie in a backend's cache, and what beginnings they share. Knows no device."""
