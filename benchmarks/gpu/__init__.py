"""The first measurements on a GPU, part by part; see benchmarks/gpu_first.py."""
