"""What this machine is: its processor, and how large its caches are, of which plans want to know the last."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dask.utils import parse_bytes

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


#: Beginnings of the flags that say which vectors a processor computes with: on x86, then on ARM.
_VECTORS = ("sse4", "avx", "fma", "f16c", "amx", "neon", "asimd", "sve")


@dataclass(frozen=True)
class Cache:
    """A cache: its bytes, and how many cores share them."""

    nbytes: int
    cores: int


#: Where the system does not say.
_USUAL = Cache(2**25, 8)


@cache
def caches() -> Mapping[str, Cache]:
    """Return this machine's caches, as Linux says it, by name, from L1d to the last before memory; none elsewhere."""
    try:
        return dict(sorted(_cache(folder) for folder in _CACHES.glob("index*")))
    except (OSError, ValueError):
        return {}


def last_cache() -> Cache:
    """Return this machine's last cache before memory; a usual one where the system does not say."""
    return list(caches().values())[-1] if caches() else _USUAL


def _cache(folder: Path) -> tuple[str, Cache]:
    holds = {"Data": "d", "Instruction": "i"}.get(_text(folder, "type"), "")
    found = Cache(parse_bytes(_text(folder, "size") + "iB"), _count(_text(folder, "shared_cpu_list")))
    return f"L{_text(folder, 'level')}{holds}", found


def _count(ranges: str) -> int:
    """Return how many numbers are in a list like 0-3,8."""
    ends = [part.split("-") for part in ranges.split(",")]
    return sum(int(part[-1]) - int(part[0]) + 1 for part in ends)


def processor() -> str:
    """Return the processor's name."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def vector_instructions() -> list[str]:
    """Return which vectors the processor computes with, as flags of Linux; none where the system does not say."""
    flags = (_cpuinfo("flags") or _cpuinfo("Features")).split()
    return sorted(flag for flag in flags if flag.startswith(_VECTORS))


def is_virtual() -> bool:
    """Return whether Linux sees a hypervisor, which may give the processor to others meanwhile."""
    return "hypervisor" in _cpuinfo("flags").split()


@cache
def _cpuinfo(name: str) -> str:
    """Return what Linux says of the first processor under a name; nothing elsewhere."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="ascii").strip()
