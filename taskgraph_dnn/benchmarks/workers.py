"""Worker processes for benchmarks: as many as asked for, of one thread each, and nothing but loopback."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from taskgraph_dnn import executors
from taskgraph_dnn.errors import PlanError

_START_SECONDS = 60
_NO_MORE_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@contextmanager
def worker_processes(count: int) -> Iterator[psutil.Process]:
    """Start a scheduler and workers of one thread each, all on loopback; yield the scheduler's process.

    Raises:
        PlanError: they do not start.
    """
    with TemporaryDirectory() as folder, ExitStack() as started:
        file = Path(folder) / "scheduler.json"
        local = "--scheduler-file", str(file), "--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"

        def start(kind: str, *options: str) -> subprocess.Popen[bytes]:
            command = sys.executable, "-m", f"distributed.cli.dask_{kind}", *local, *options
            process = subprocess.Popen(
                command, env=os.environ | _NO_MORE_THREADS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            started.callback(_stop, process)
            return process

        scheduler = start("scheduler", "--port", "0")
        _until(file.exists, "a scheduler")
        for _ in range(count):
            start("worker", "--nthreads", "1", "--no-nanny", "--local-directory", folder)
        with executors.connected(json.loads(file.read_text(encoding="utf-8"))["address"]):
            _until(lambda: len(executors.resources().workers) == count, f"{count} workers")
            yield psutil.Process(scheduler.pid)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_START_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _until(ready: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise PlanError(f"{what}: not there after {_START_SECONDS} s")
        time.sleep(0.05)
