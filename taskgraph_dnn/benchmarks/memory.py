"""How much memory a piece of work needs: the peak of this process and of those that it started."""

import ctypes
import gc
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from mmap import PAGESIZE
from multiprocessing import get_context
from pathlib import Path
from typing import ParamSpec, TypeVar

import psutil

from taskgraph_dnn.errors import ClusterError

#: Written to clear_refs, it sets a process's peak back to what it has now; Linux only.
_RESET = "5"

_Arguments = ParamSpec("_Arguments")
_Answer = TypeVar("_Answer")


def in_new_process(
    function: Callable[_Arguments, _Answer], *arguments: _Arguments.args, **options: _Arguments.kwargs
) -> _Answer:
    """Return what a function returns in a process of its own, which has held nothing before.

    Raises:
        ClusterError: the process died, as one does that needs more memory than there is.
    """
    # One task a process, or it would outlive this one where that is killed.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as process:
        try:
            return process.submit(function, *arguments, **options).result()
        except BrokenProcessPool as error:
            raise ClusterError(
                f"the process that was to run {function.__name__} died: is there too little memory?"
            ) from error


def why_no_peaks() -> str:
    """Return why the peak of a piece of work cannot be measured here; nothing where it can."""
    return "" if os.access("/proc/self/clear_refs", os.W_OK) else "this system does not look for the peak anew"


def peaks(work: Callable[[], object], rounds: int) -> list[int]:
    """Return for each round of some work the most bytes of memory beyond those that were held before the first.

    What the work returns is held until the round ends. A page is the least that can be seen.
    """
    gc.collect()
    give_back()
    before = held_nbytes()
    found = []
    for _ in range(rounds):
        reset_peak()
        done = work()
        found.append(max(PAGESIZE, peak_nbytes() - before))
        del done
    return found


def give_back() -> None:
    """Give memory that was freed back to the system, where the C library would keep it for later."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def held_nbytes() -> int:
    """Return the bytes of memory that this process and those that it started hold now."""
    this = psutil.Process()
    held = 0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.Error):  # it is gone
            held += process.memory_info().rss
    return held


def reset_peak() -> None:
    """Begin to look for the peak anew, where the system allows it."""
    for folder in _processes():
        with suppress(OSError):
            (folder / "clear_refs").write_text(_RESET, encoding="ascii")


def peak_nbytes() -> int:
    """Return the most bytes of memory since `reset_peak`: the sum of the processes' peaks.

    Where the system cannot begin anew, it is the peak of this process since it started; 0 where it tells nothing.
    """
    peaks = [_linux_peak(folder) for folder in _processes()]
    return sum(peaks) or _peak_since_start()


def _processes() -> Iterator[Path]:
    """Yield the folders in which Linux tells of this process and of those that it started."""
    this = psutil.Process()
    for process in (this, *this.children(recursive=True)):
        yield Path(f"/proc/{process.pid}")


def _linux_peak(folder: Path) -> int:
    try:
        lines = (folder / "status").read_text(encoding="utf-8").splitlines()
    except OSError:  # it is gone, or this is not Linux
        return 0
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return 1024 * sum(kilobytes)


def _peak_since_start() -> int:
    try:
        import resource
    except ImportError:  # Windows
        return int(getattr(psutil.Process().memory_info(), "peak_wset", 0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
