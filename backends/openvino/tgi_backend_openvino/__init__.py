"""Runs language models on OpenVINO's paged attention, for tgi-core."""
