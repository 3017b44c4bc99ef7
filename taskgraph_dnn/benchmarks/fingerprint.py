"""What the numbers depend on: the machine, the libraries and their threads, and how much of it others used."""

import os
import platform
import time
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from taskgraph_dnn.machine import last_cache, processor

_PACKAGES = (
    *("taskgraph-dnn", "numpy", "scipy", "numba", "llvmlite", "threadpoolctl"),
    *("mkl", "sparse_dot_mkl", "torch", "python-graphblas", "suitesparse-graphblas"),
    *("dask", "distributed", "onnxruntime", "pyarrow", "safetensors"),
)
_VARIABLES = ("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "NUMBA_NUM_THREADS")

#: Thread pools that compute. Others read files, scipy's of MatrixMarket, which has a function for a version.
_POOLS = ("blas", "openmp")


def processor_seconds() -> NDArray[np.float64]:
    """Return the seconds that others (steal is theirs) have used of all processors, and all there were."""
    times = psutil.cpu_times()._asdict()
    idle = times["idle"] + times.get("iowait", 0)
    guests = times.get("guest", 0) + times.get("guest_nice", 0)  # are in the user's already
    total = sum(times.values()) - guests
    return np.array([total - idle - time.process_time(), total])


def machine() -> dict[str, Any]:
    """Return what the numbers depend on, and nothing that tells one such machine from another."""
    computing = [pool for pool in threadpool_info() if pool["user_api"] in _POOLS]
    pools = [{name: value for name, value in pool.items() if name != "filepath"} for pool in computing]
    variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "last_cache": asdict(last_cache()),
        "memory_nbytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "thread_pools": pools,
        "thread_variables": {name: value for name, value in sorted(variables.items()) if "/" not in value},
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
