"""Clusters of separate processes, as their commands start them, on loopback only."""

import os
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress

import psutil

_DASK = [sys.executable, "-m", "dask"]
_LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]


@contextmanager
def command_cluster(folder, *, scheduler=(), worker=(), workers=2, env=None):
    """Start `dask scheduler` and `dask worker`s in a folder, and yield its process and theirs when all are there.

    The scheduler's file is `scheduler.json` in the folder.
    """
    env = {**os.environ, **(env or {})}
    file = folder / "scheduler.json"
    with ExitStack() as stack, (folder / "log").open("w") as log:

        def start(*arguments):
            command = [*_DASK, *arguments, "--scheduler-file", str(file), *_LOOPBACK]
            process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=subprocess.STDOUT)
            stack.callback(_end, process)
            return process

        first = start("scheduler", "--port", "0", *scheduler)
        until(file.exists, folder)
        started = [start("worker", "--nthreads", "1", *worker) for _ in range(workers)]
        until(lambda: (folder / "log").read_text().count("Register worker addr") >= workers, folder)
        yield first, started


def until(condition, folder, seconds=60):
    """Wait for a condition, and show what the processes said if it does not come."""
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError((folder / "log").read_text())


def _end(process):
    """End a process and those it started, stopped ones too."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait(30)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()
