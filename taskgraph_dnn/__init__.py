"""Inference for large sparse neural networks as a Dask task graph."""

from taskgraph_dnn.errors import TaskgraphError
from taskgraph_dnn.network import Layer, Network

__all__ = ["Layer", "Network", "TaskgraphError"]
__version__ = "0.1.0"
