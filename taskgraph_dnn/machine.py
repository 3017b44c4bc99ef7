"""What this machine is: its processor's name, and how large the caches are, which plans want to know."""

import platform
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from dask.utils import parse_bytes

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


@dataclass(frozen=True)
class Caches:
    """Bytes of a core's own cache, the second, and of the last one, which cores share."""

    own_nbytes: int
    shared_nbytes: int


#: Where the system does not say.
_USUAL = Caches(own_nbytes=2**20, shared_nbytes=2**25)


@cache
def caches() -> Caches:
    """Return the sizes of this machine's caches, as Linux says them; usual ones elsewhere."""
    try:
        sizes = {_text(folder, "level"): parse_bytes(_text(folder, "size") + "iB") for folder in _CACHES.glob("index*")}
        return Caches(sizes["2"], max(sizes.values()))
    except (OSError, ValueError, KeyError):
        return _USUAL


def processor() -> str:
    """Return the processor's name."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _text(folder: Path, name: str) -> str:
    return (folder / name).read_text(encoding="ascii").strip()
