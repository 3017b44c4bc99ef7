"""Compiling with numba, for types that are said beforehand: nothing is compiled, or loaded, twice or by surprise."""

from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit, types

_OPTIONS = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy", "boundscheck": False}


def readonly(element: Any, ndim: int = 1) -> Any:
    """Return the type of an array that is only read, and may lie at any address."""
    return types.Array(element, ndim, "C", readonly=True, aligned=False)


@cache
def compile_for(function: Callable[..., Any], *arguments: Any, returns: Any = types.void) -> Callable[..., Any]:
    """Return the function compiled for arguments of these numba types, from the cache on disk if it is there."""
    try:
        compiled: Callable[..., Any] = njit(returns(*arguments), cache=True, **_OPTIONS)(function)
    except RuntimeError:  # numba finds no folder for its cache that it may write to
        compiled = njit(returns(*arguments), **_OPTIONS)(function)
    return compiled
