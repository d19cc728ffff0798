"""The affinity in PyTorch alone, for CPUs: read ``affinity``, then ``screening`` and ``selection``, its two halves."""
