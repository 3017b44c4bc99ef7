"""Inference for large sparse neural networks as a Dask task graph.

    import taskgraph_dnn as tg

    network = tg.radixnet(neurons=1024, layers=120, seed=0)
    images = tg.digit_images(samples=60_000, neurons=1024, seed=0)
    result = tg.infer(network, images).compute()

Data flows one way: files, Network, Plan, task graph, executor, Result. `docs/architecture.md` says what is where.
"""

from taskgraph_dnn.compiled_network import CompiledNetwork
from taskgraph_dnn.compiled_network import compile_network as compile  # noqa: A004, it is the word for it
from taskgraph_dnn.data import read_samples
from taskgraph_dnn.errors import (
    CheckpointError,
    ClusterError,
    DumpError,
    FileError,
    InputError,
    JobError,
    KernelError,
    MissingDependencyError,
    NetworkError,
    PlanError,
    TaskgraphError,
    UnprotectedSchedulerWarning,
)
from taskgraph_dnn.inference import Inference, infer
from taskgraph_dnn.io import (
    read_categories,
    read_challenge_images,
    read_challenge_network,
    read_images,
    read_matrix_market,
    read_matrix_market_images,
    read_network,
    read_npz,
    read_packed,
    read_state_dict,
    write_categories,
    write_challenge_images,
    write_challenge_network,
    write_matrix_market,
    write_npz,
    write_onnx,
    write_packed,
    write_state_dict,
)
from taskgraph_dnn.models import from_onnx, from_sklearn, from_torch, to_onnx
from taskgraph_dnn.network import Layer, Network
from taskgraph_dnn.plan import Plan
from taskgraph_dnn.prediction import Predicted, predict
from taskgraph_dnn.record import write_report, write_trace
from taskgraph_dnn.result import Result
from taskgraph_dnn.synthetic import digit_images, radixnet

__all__ = [
    "CheckpointError",
    "ClusterError",
    "CompiledNetwork",
    "DumpError",
    "FileError",
    "Inference",
    "InputError",
    "JobError",
    "KernelError",
    "Layer",
    "MissingDependencyError",
    "Network",
    "NetworkError",
    "Plan",
    "PlanError",
    "Predicted",
    "Result",
    "TaskgraphError",
    "UnprotectedSchedulerWarning",
    "compile",
    "digit_images",
    "from_onnx",
    "from_sklearn",
    "from_torch",
    "infer",
    "predict",
    "radixnet",
    "read_categories",
    "read_challenge_images",
    "read_challenge_network",
    "read_images",
    "read_matrix_market",
    "read_matrix_market_images",
    "read_network",
    "read_npz",
    "read_packed",
    "read_samples",
    "read_state_dict",
    "to_onnx",
    "write_categories",
    "write_challenge_images",
    "write_challenge_network",
    "write_matrix_market",
    "write_npz",
    "write_onnx",
    "write_packed",
    "write_report",
    "write_state_dict",
    "write_trace",
]
__version__ = "0.1.0"
