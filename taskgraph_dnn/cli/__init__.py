"""The command `taskgraph-dnn`, which is also `dask taskgraph-dnn`."""

from taskgraph_dnn.cli.main import main

__all__ = ["main"]
