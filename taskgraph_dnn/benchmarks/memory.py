"""How much memory a piece of work needs: the peak of this process and of those that it started."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

#: Written to clear_refs, it sets a process's peak back to what it has now; Linux only.
_RESET = "5"


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
