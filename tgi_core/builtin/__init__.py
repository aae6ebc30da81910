"""Default plugins of no extra dependency, registered like any other."""
