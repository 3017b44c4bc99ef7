"""Clusters of separate processes, as their commands start them, on loopback only."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

CONFIGS = Path(__file__).resolve().parents[1] / "configs" / "clusters"
_LOOPBACK = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]


def dask_command(role, *options):
    """Return the command of a scheduler or a worker; options that come later replace earlier ones."""
    port = ["--port", "0"] if role == "scheduler" else []
    return [sys.executable, "-m", "dask", role, *port, "--scheduler-file", "scheduler.json", *_LOOPBACK, *options]


@contextmanager
def running(folder, scheduler, *workers, env=None):
    """Run the commands of a cluster in a folder, and yield their processes when all workers are there.

    The scheduler's file is `scheduler.json` in the folder; workers wait until it is written.
    """
    (folder / "scheduler.json").unlink(missing_ok=True)
    with ExitStack() as stack, (folder / "log").open("w") as log:
        processes = []
        for command in (scheduler, *workers):
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, **(env or {})}, stdout=log, stderr=subprocess.STDOUT
            )
            stack.callback(_end, process)
            processes.append(process)
        until(lambda: (folder / "log").read_text().count("Register worker addr") >= len(workers), folder)
        until((folder / "scheduler.json").exists, folder)
        yield processes


@contextmanager
def command_cluster(folder, *, scheduler=(), worker=(), workers=2, env=None):
    """Start a scheduler and workers of one thread in a folder, and yield its process and theirs."""
    each = dask_command("worker", "--nthreads", "1", *worker)
    with running(folder, dask_command("scheduler", *scheduler), *[each] * workers, env=env) as (first, *started):
        yield first, started


def address(folder):
    """Return the address of the folder's scheduler."""
    return json.loads((folder / "scheduler.json").read_text())["address"]


def until(condition, folder=None, seconds=60):
    """Wait for a condition, and show what the processes of a folder said if it does not come."""
    for _ in range(seconds * 20):
        if condition():
            return
        time.sleep(0.05)
    raise TimeoutError("" if folder is None else (folder / "log").read_text())


def _end(process):
    """End a process and those it started, stopped ones too."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    process.kill()
    process.wait(30)
    for child in family:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def make_certificates(folder):
    """Make an authority, and a key and a certificate of it, named as in tls.yaml, which is put beside them."""

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ["-newkey", "rsa:2048", "-nodes", "-days", "2"]
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=authority")
    openssl("req", *new[:3], "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=cluster")
    signed = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2"]
    openssl("x509", "-req", "-in", "request.pem", *signed, "-out", "cert.pem")
    shutil.copy(CONFIGS / "tls.yaml", folder)
