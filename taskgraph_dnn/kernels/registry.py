"""The registry of kernels: names, what they need, and which of them `auto` chooses from."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import numpy as np
import scipy.sparse

from taskgraph_dnn.activations import Alive, Values
from taskgraph_dnn.errors import KernelError, MissingDependencyError, TaskgraphError
from taskgraph_dnn.network import Layer

GROUP = "taskgraph_dnn.kernels"
AUTO = "auto"

#: This package's kernels: the module that holds `KERNEL`, what it needs, the extra that installs that.
_OWN = {
    "tile": ("taskgraph_dnn.kernels.tile", "numba", "numba"),
    "ell": ("taskgraph_dnn.kernels.ell", "numba", "numba"),
    "csr": ("taskgraph_dnn.kernels.csr", "numba", "numba"),
    "quads": ("taskgraph_dnn.kernels.quads", "numba", "numba"),
    "push": ("taskgraph_dnn.kernels.push", "numba", "numba"),
    "dense": ("taskgraph_dnn.kernels.dense", "numpy", "all"),
    "scipy": ("taskgraph_dnn.kernels.scipy_kernel", "scipy", "all"),
    "mkl": ("taskgraph_dnn.kernels.mkl_kernel", "sparse_dot_mkl", "mkl"),
    "torch": ("taskgraph_dnn.kernels.torch_kernel", "torch", "torch"),
    "graphblas": ("taskgraph_dnn.kernels.graphblas_kernel", "graphblas", "graphblas"),
}

#: What `auto` chooses from. The others are other people's libraries: for those who ask for them, and to compare with.
_AUTO = ("tile", "ell", "csr", "quads", "push", "dense", "scipy")


@dataclass(frozen=True)
class Kernel:
    """A way to compute a layer: a storage format, and the code that works on it.

    Attributes:
        name: what users choose it by.
        pack: `pack(layer, dtype)` turns a layer into whatever `run` reads, for activations of that type.
        unpack: turns that into the layer's weights again, inputs x outputs, CSC, exactly.
        run: `run(packed, inputs, outputs, alive)` fills `outputs` (tiles x outputs x lanes) from `inputs` (tiles x
            inputs x lanes), both of the type packed for, and `alive` (tiles x lanes): has the sample any nonzero
            output.
        seconds: `seconds(layer, lanes, density)` estimates one tile of `lanes` samples on one thread, in float32, when
            that part of the inputs is not zero. Plans choose kernels and size tasks by it.
        reads_rows: `run` takes CSR rows, samples x inputs, in place of tiles; only the network's input comes as such.
        uses_blas: `run` calls BLAS, which is then kept to one thread.
    """

    name: str
    pack: Callable[[Layer, np.dtype[Any]], Any]
    unpack: Callable[[Any], scipy.sparse.csc_array]
    run: Callable[[Any, Any, Values, Alive], None]
    seconds: Callable[[Layer, int, float], float]
    reads_rows: bool = False
    uses_blas: bool = False


def at_rate(multiply_adds_per_second: float, fixed: float = 1e-5) -> Callable[[Layer, int, float], float]:
    """Return a kernel's `seconds` where every edge takes the same time, and a tile some seconds besides."""
    return lambda layer, lanes, density: fixed + layer.nnz * lanes / multiply_adds_per_second  # noqa: ARG005


def kernel_names() -> tuple[str, ...]:
    """Return the names of all registered kernels, whether they can be used here or not."""
    return (*_OWN, *sorted(set(_entry_points()) - set(_OWN)))


@cache
def load_kernel(name: str) -> Kernel:
    """Return the kernel called `name`.

    Raises:
        KernelError: there is no such kernel, it cannot be loaded, or what is loaded is no `Kernel`.
        MissingDependencyError: what the kernel needs is not installed.
    """
    if name in _OWN:
        module, package, extra = _OWN[name]
        try:
            kernel = import_module(module).KERNEL
        except ModuleNotFoundError as error:
            raise MissingDependencyError.of(f"kernel {name!r}", package, extra) from error
        except Exception as error:  # it is installed, but does not take the numpy beside it, for example
            raise KernelError(f"kernel {name!r} cannot be used: {error}") from error
    elif name in _entry_points():
        try:
            kernel = _entry_points()[name].load()
        except Exception as error:  # another package's code may fail in any way
            raise KernelError(f"kernel {name!r} cannot be loaded: {type(error).__name__}: {error}") from error
    else:
        raise KernelError(f"unknown kernel {name!r}, expected one of {', '.join((AUTO, *kernel_names()))}")
    if not isinstance(kernel, Kernel):
        raise KernelError(f"entry point {name!r} of {GROUP} is a {type(kernel).__name__}, expected a Kernel")
    return kernel


def kernel_problem(name: str) -> str | None:
    """Return why the kernel cannot be used here, or None if it can."""
    try:
        load_kernel(name)
    except TaskgraphError as error:
        return str(error)
    return None


def automatic_kernels() -> tuple[Kernel, ...]:
    """Return the kernels that `auto` chooses from, those that can be used here."""
    return tuple(load_kernel(name) for name in _AUTO if kernel_problem(name) is None)


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
