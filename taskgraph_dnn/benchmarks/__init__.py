"""Benchmarks: what is timed, against what, and how. `python -m taskgraph_dnn.benchmarks.kernels` times the kernels."""
