"""The registry of kernels: names, what they need, and which one `auto` is."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from taskgraph_dnn.activations import Values
from taskgraph_dnn.errors import KernelError, MissingDependencyError, TaskgraphError
from taskgraph_dnn.network import Layer

GROUP = "taskgraph_dnn.kernels"
AUTO = "auto"

#: This package's kernels, fastest first: the module that holds `KERNEL`, what it needs, the extra that installs that.
_OWN = {
    "numba": ("taskgraph_dnn.kernels.numba_kernel", "numba", "numba"),
    "scipy": ("taskgraph_dnn.kernels.scipy_kernel", "scipy", "all"),
}


@dataclass(frozen=True)
class Kernel:
    """A way to compute a layer.

    Attributes:
        name: what users choose it by.
        pack: turns a layer into whatever `run` reads.
        run: `run(packed, inputs, outputs)` fills `outputs` (tiles x outputs x lanes, float32).
        multiply_adds_per_second: what one thread does, roughly; plans size tasks by it.
    """

    name: str
    pack: Callable[[Layer], Any]
    run: Callable[[Any, Values, Values], None]
    multiply_adds_per_second: float


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
        except ImportError as error:  # it is installed, but does not take the numpy beside it, for example
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


def resolve_kernel(name: str) -> tuple[Kernel, str]:
    """Return the kernel to use for `name`, which may be "auto", and the reason for the choice."""
    if name != AUTO:
        return load_kernel(name), "as asked"
    reasons: list[str] = []
    for candidate in _OWN:
        problem = kernel_problem(candidate)
        if problem is None:
            return load_kernel(candidate), "; ".join(["fastest that can be used", *reasons])
        reasons.append(problem)
    raise KernelError(f"no kernel can be used: {'; '.join(reasons)}")


@cache
def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}
