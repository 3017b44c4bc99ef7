"""Two hosts, which are network namespaces of this machine with a cable between them: by TLS, and when it is cut."""

import json
import os
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

import taskgraph_dnn as tg
from tests.clusters import address, dask_command, make_certificates, running

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="network namespaces need root"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="there is no command ip here to make network namespaces"),
]


class Host(NamedTuple):
    name: str
    address: str

    def within(self, *command):
        """Return the command that runs a command there."""
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def dask(self, role, *options):
        """Return the command of a scheduler or a worker there."""
        return self.within(*dask_command(role, "--host", self.address, *options))

    def cable(self, state):
        """Return the command that plugs the cable in, or cuts it."""
        return ["ip", "-n", self.name, "link", "set", "cable", state]


@pytest.fixture
def hosts():
    """Two hosts; nobody else can reach them."""
    one, two = Host(f"tg-{os.getpid()}-1", "10.213.7.1"), Host(f"tg-{os.getpid()}-2", "10.213.7.2")
    with ExitStack() as stack:
        try:
            for host in (one, two):
                run("ip", "netns", "add", host.name)
                stack.callback(run, "ip", "netns", "del", host.name)
            peer = ["peer", "name", "cable", "netns", two.name]
            run("ip", "link", "add", "cable", "netns", one.name, "type", "veth", *peer)
            for host in (one, two):
                run("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", "cable")
                run("ip", "-n", host.name, "link", "set", "lo", "up")
                run(*host.cable("up"))
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        yield one, two


def run(*command, folder=None, env=None, code=0):
    """Run a command and return what it did; its status must be `code`."""
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode != code:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done


@pytest.fixture
def packed(tmp_path):
    """The file of a network, on the disk that both hosts share."""
    tg.write_packed(tg.radixnet(1024, 60), tmp_path / "network.safetensors")
    return tmp_path / "network.safetensors"


@pytest.fixture
def expected(packed):
    return (
        tg.infer(tg.read_packed(packed), tg.digit_images(1000, 1024)).compute(scheduler="threads").categories.tolist()
    )


def maps(process, path):
    """Whether a process has a file in its memory."""
    return str(path) in Path(f"/proc/{process.pid}/maps").read_text()


def test_a_run_on_two_hosts_by_tls(hosts, packed, expected, tmp_path):
    """The command line, beside one worker, with one configuration for all."""
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl here to make certificates")
    one, two = hosts
    make_certificates(tmp_path)
    env = {"DASK_CONFIG": str(tmp_path / "tls.yaml")}
    commands = [host.dask("worker", "--nthreads", 1, "--no-nanny") for host in hosts]
    with running(tmp_path, one.dask("scheduler", "--protocol", "tls"), *commands, env=env) as (_, *workers):
        assert address(tmp_path).startswith(f"tls://{one.address}:")
        options = ["--samples", 1000, "--partitions", 8, "--strategy", "data", "--json", "result.json"]
        command = [sys.executable, "-m", "taskgraph_dnn", "run", "--network", packed, "--config", "tls.yaml", *options]
        done = run(*two.within(*command), folder=tmp_path)
        assert not done.stderr
        assert json.loads((tmp_path / "result.json").read_text())["categories"] == expected
        assert all(maps(worker, packed) for worker in workers)


#: A run that does something when its first task has ended.
RUN = """
import subprocess, sys
import dask, taskgraph_dnn as tg
from taskgraph_dnn import executors

scheduler, packed, *first = sys.argv[1:]

def once(event):
    subprocess.run(first, check=True)
    first.clear()
    first.append("true")

with executors.connected(scheduler) as where, dask.config.set({"taskgraph-dnn.task-seconds": 1e-3}):
    network, images = tg.read_packed(packed), tg.digit_images(1000, 1024)
    inference = tg.infer(network, images, partitions=5, kernel="scipy", reductions="none")
    assert inference.plan.tasks >= 200
    with executors.watching(inference.token, once):
        print(inference.compute(**where).categories.tolist())
"""


def test_a_cable_that_is_cut_in_the_middle_of_a_run(hosts, packed, expected, tmp_path):
    """Those on the scheduler's side go on without the others; a client on the other side has lost its run."""
    one, two = hosts
    env = {
        "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "5s",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    }
    commands = [host.dask("worker", "--nthreads", 1, "--no-nanny") for host in hosts]
    with running(tmp_path, one.dask("scheduler"), *commands, env=env):
        program = [sys.executable, "-c", RUN, address(tmp_path), packed, *one.cable("down")]
        done = run(*one.within(*program), env={**os.environ, **env})
        assert json.loads(done.stdout) == expected
        assert "UnprotectedSchedulerWarning: the scheduler at tcp://10.213.7.1:" in done.stderr
        run(*one.cable("up"))
        done = run(*two.within(*program), env={**os.environ, **env}, code=1)
        assert "ClusterError: the connection to the scheduler was lost" in done.stderr
