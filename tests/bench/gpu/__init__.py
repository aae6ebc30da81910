"""Measures the CUDA backend on one GPU, against what the GPU itself can do: see __main__."""
