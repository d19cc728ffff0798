"""CUDA kernels in Triton: ``ops`` launches ``affinity``; ``labels`` and ``loss`` are kernels of their own."""
