"""What the numbers depend on: the machine, the libraries and their threads, and how much of it others used."""

import hashlib
import os
import platform
import re
import time
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from dask.system import CPU_COUNT
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from taskgraph_dnn.machine import caches, is_virtual, processor, vector_instructions

_PACKAGES = (
    *("taskgraph-dnn", "numpy", "scipy", "numba", "llvmlite", "threadpoolctl"),
    *("mkl", "sparse_dot_mkl", "torch", "python-graphblas", "suitesparse-graphblas"),
    *("dask", "distributed", "onnxruntime", "pyarrow", "pandas", "safetensors"),
)
_VARIABLES = ("OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "NUMBA_NUM_THREADS")

#: Thread pools that compute. Others read files, scipy's of MatrixMarket, which has a function for a version.
_POOLS = ("blas", "openmp")

_PACKAGE = Path(__file__).resolve().parents[1]
_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def processor_seconds() -> NDArray[np.float64]:
    """Return the seconds that others (steal is theirs) have used of all processors, and all there were.

    This process and those that it has started, now or earlier, are not others.
    """
    times = psutil.cpu_times()._asdict()
    idle = times["idle"] + times.get("iowait", 0)
    guests = times.get("guest", 0) + times.get("guest_nice", 0)  # are in the user's already
    total = sum(times.values()) - guests
    return np.array([total - idle - time.process_time() - _descendants_seconds(), total])


def _descendants_seconds() -> float:
    ended = os.times()
    seconds = ended.children_user + ended.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has just ended, and is among those next time
            seconds += sum(child.cpu_times()[:4])  # its own, and that of its children that have ended
    return seconds


def machine() -> dict[str, Any]:
    """Return what the numbers depend on, and nothing that tells one such machine from another."""
    computing = [pool for pool in threadpool_info() if pool["user_api"] in _POOLS]
    pools = [{name: value for name, value in sorted(pool.items()) if name != "filepath"} for pool in computing]
    variables = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    logical, physical = psutil.cpu_count() or 1, psutil.cpu_count(logical=False) or 1
    return {
        "processor": processor(),
        "vector_instructions": vector_instructions(),
        "cores": physical,
        "threads_per_core": logical // physical,
        "usable_threads": CPU_COUNT,
        "virtual": is_virtual(),
        "megahertz": _megahertz(),
        "governor": _text(_GOVERNOR),
        "caches": {name: asdict(cache) for name, cache in caches().items()},
        "memory_nbytes": psutil.virtual_memory().total,
        "huge_pages": _in_brackets(_text(_HUGE_PAGES)),
        "system": _system(),
        "python": platform.python_version(),
        "code": _code(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "thread_pools": sorted(pools, key=str),
        "thread_variables": {name: value for name, value in sorted(variables.items()) if "/" not in value},
    }


def _megahertz() -> int | None:
    """Return the processor's highest frequency, or that of now where no other is known."""
    try:
        found = psutil.cpu_freq()
    except (OSError, NotImplementedError):
        return None
    return None if found is None else round(found.max or found.current)


def _text(file: Path) -> str | None:
    try:
        return file.read_text(encoding="ascii").strip()
    except OSError:
        return None


def _in_brackets(text: str | None) -> str | None:
    """Return which of several words the system has chosen: always [madvise] never."""
    chosen = re.search(r"\[(.+)\]", text or "")
    return chosen[1] if chosen else None


def _system() -> str:
    """Return kernel and distribution; what follows the kernel's numbers says who built it."""
    numbers = re.match(r"[0-9.]*", platform.release())
    kernel = f"{platform.system()} {numbers[0] if numbers else ''}".strip()
    with suppress(OSError):
        release = platform.freedesktop_os_release()
        return f"{kernel}, {release['ID']} {release.get('VERSION_ID', '')}".strip()
    return kernel


def _code() -> str:
    """Return what is equal for equal sources of this package: versions are rarer than changes."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
