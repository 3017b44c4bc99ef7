"""Benchmarks: what is timed, against what, and how. `taskgraph-dnn bench` runs them."""
