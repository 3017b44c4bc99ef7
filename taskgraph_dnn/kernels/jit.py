"""Compiling with numba, for types that are said beforehand: nothing is compiled, or loaded, twice or by surprise."""

import logging
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from numba import njit, types

_OPTIONS = {"nogil": True, "fastmath": {"contract"}, "error_model": "numpy", "boundscheck": False}

#: Held while something is compiled or loaded, so that threads that want the same thing do not do it twice.
compiling = threading.RLock()

_log = logging.getLogger(__name__)


def readonly(element: Any, ndim: int = 1) -> Any:
    """Return the type of an array that is only read, and may lie at any address."""
    return types.Array(element, ndim, "C", readonly=True, aligned=False)


def compile_for(function: Callable[..., Any], *arguments: Any, returns: Any = types.void) -> Callable[..., Any]:
    """Return the function compiled for arguments of these numba types, from the cache on disk if it is there."""
    with compiling:
        return _compile(function, returns(*arguments))


@cache
def _compile(function: Callable[..., Any], signature: Any) -> Callable[..., Any]:
    try:
        compiled: Callable[..., Any] = njit(signature, cache=True, **_OPTIONS)(function)
    except Exception as error:  # there is no folder for the cache, the disk is full, or a file in it is damaged
        compiled = njit(signature, **_OPTIONS)(function)
        _log.info("compiled %s without numba's cache: %r", function.__name__, error)
    return compiled
