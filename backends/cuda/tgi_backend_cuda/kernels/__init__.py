"""Triton kernels, one source for CUDA and ROCm. They know tensors, and neither models nor steps."""
