"""What this machine is: its processor's name, and how large its last cache is, which plans want to know."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dask.utils import parse_bytes

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Cache:
    """The last cache before memory: its bytes, and how many cores share them."""

    nbytes: int
    cores: int


#: Where the system does not say.
_USUAL = Cache(2**25, 8)


@cache
def last_cache() -> Cache:
    """Return this machine's last cache, as Linux says it; a usual one elsewhere."""
    try:
        last = max(_CACHES.glob("index*"), key=lambda folder: int(_text(folder, "level")))
        return Cache(parse_bytes(_text(last, "size") + "iB"), _count(_text(last, "shared_cpu_list")))
    except (OSError, ValueError):
        return _USUAL


def _count(ranges: str) -> int:
    """Return how many numbers are in a list like 0-3,8."""
    ends = [part.split("-") for part in ranges.split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ends)


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="ascii").strip()
