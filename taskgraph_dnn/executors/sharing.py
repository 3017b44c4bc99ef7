"""What no file holds, written where the workers can read it for the time of a run, in place of being sent."""

import asyncio
import os
import secrets
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from distributed import Client
from distributed.comm import get_address_host
from scipy.sparse import issparse

from taskgraph_dnn.config import cluster_settings
from taskgraph_dnn.errors import ClusterError, FileError
from taskgraph_dnn.executors.cluster import ANSWER_SECONDS, is_loopback
from taskgraph_dnn.io.atomic import free_nbytes, temporary_folder
from taskgraph_dnn.io.pack import write_shared
from taskgraph_dnn.io.rows import write_rows
from taskgraph_dnn.matrices import sparse_nbytes
from taskgraph_dnn.network import Network

#: What has fewer bytes is sent.
_WORTHWHILE_NBYTES = 2**20

#: Linux has a file system in memory here, whose files nobody writes to a disk.
_IN_MEMORY = Path("/dev/shm")


@contextmanager
def shared(client: Client, partitions: Any) -> Iterator[Any]:
    """Yield the expression, with temporary files in place of what it holds in memory, if all workers can read those.

    That is the network, and the rows of input.

    Raises:
        ClusterError: the folder that the configuration names is not there, or cannot be written.
    """
    held = _held(partitions)
    folder = _folder(client, sum(held.values())) if held else None
    if folder is None:
        yield partitions
        return
    with temporary_folder(folder) as own:
        yield _with_files(client, partitions, held, own)


def _held(partitions: Any) -> dict[str, int]:
    """Return the operands that are worth a file, and the bytes of each."""
    network, rows = (getattr(partitions, name, None) for name in ("network", "inputs"))
    nbytes = {
        "network": network.nbytes if isinstance(network, Network) else 0,
        "inputs": rows.nbytes if isinstance(rows, np.ndarray) else sparse_nbytes(rows) if issparse(rows) else 0,
    }
    return {name: size for name, size in nbytes.items() if size >= _WORTHWHILE_NBYTES}


def _folder(client: Client, nbytes: int) -> Path | None:
    """Return where so many bytes can be written for all workers, if anywhere."""
    folder = cluster_settings().temporary
    if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise ClusterError(f"taskgraph-dnn.cluster.temporary is {folder}, which is no folder that can be written")
    # On the loopback interface nobody can join who does not run on this machine.
    if folder is None and is_loopback(get_address_host(client.scheduler.address)):
        folder = _own_folder(nbytes)
    if folder is None or free_nbytes(folder) < 2 * nbytes:
        return None
    return folder.absolute()


def _own_folder(nbytes: int) -> Path:
    """Return where this machine's processes share files for a while: in memory, where that leaves most of its room."""
    if os.access(_IN_MEMORY, os.W_OK | os.X_OK):
        room = min(free_nbytes(_IN_MEMORY), psutil.virtual_memory().available)
        if 4 * nbytes <= room:
            return _IN_MEMORY
    return Path(tempfile.gettempdir())


def _with_files(client: Client, partitions: Any, names: Iterable[str], folder: Path) -> Any:
    """Return the expression with these operands in files of the folder, or as it is where that is not possible."""
    probe, content = folder / "probe", secrets.token_hex()
    write: dict[str, Callable[[Any], Any]] = {
        "network": lambda network: write_shared(network, folder / "network.safetensors"),
        "inputs": lambda rows: write_rows(rows, folder),
    }
    try:
        probe.write_text(content)
        if not client.sync(_all_read, client, probe, content):
            return partitions
        files = {name: write[name](partitions.operand(name)) for name in names}
    except (OSError, FileError):  # somebody else has filled the disk, for example
        return partitions
    return partitions.substitute_parameters(files)


async def _all_read(client: Client, file: Path, content: str) -> bool:
    """Return whether there are workers, and all of them find this content in the file, and soon."""
    async with asyncio.timeout(ANSWER_SECONDS):  # TimeoutError is an OSError
        found = await client.run(_read, file, on_error="return")
    return bool(found) and all(text == content for text in found.values())


def _read(file: Path) -> str:
    return file.read_text()
