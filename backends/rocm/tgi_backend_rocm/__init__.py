"""AMD GPUs: the CUDA backend's kernels and graphs, with the choices that suit these chips."""
