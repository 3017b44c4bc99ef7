"""Clusters by SSH: a real server on loopback, with keys, that runs what it is told."""

import shutil
import subprocess
import sys

import dask.config
import psutil
import pytest
from distributed import default_client

import taskgraph_dnn as tg
from taskgraph_dnn import executors
from taskgraph_dnn.errors import MissingDependencyError, PlanError
from tests.clusters import make_certificates
from tests.test_cli import invoke
from tests.test_inference import equal

asyncssh = pytest.importorskip("asyncssh")


#: Runs what it is told by those whose key it knows, notes the commands, and ends them with their connection.
SERVER = """
import asyncio, os, signal, sys
import asyncssh

async def run(process):
    with open("commands", "a") as log:
        print(process.command, file=log)
    piped = {"stdout": asyncio.subprocess.PIPE, "stderr": asyncio.subprocess.PIPE}
    child = await asyncio.create_subprocess_shell(process.command, start_new_session=True, **piped)
    await process.redirect(stdout=child.stdout, stderr=child.stderr)
    ended, gone = asyncio.create_task(child.wait()), asyncio.create_task(process.stdin.read())
    await asyncio.wait((ended, gone), return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        os.killpg(child.pid, signal.SIGKILL)
    process.exit(await ended)

async def serve():
    keys = {"server_host_keys": ["host"], "authorized_client_keys": "id.pub"}
    async with asyncssh.listen("127.0.0.1", 0, process_factory=run, **keys) as listening:
        print(listening.get_port(), flush=True)
        await asyncio.Event().wait()

asyncio.run(serve())
"""


class Server:
    """An SSH server, and what it was told to run."""

    def __init__(self, process, folder):
        self.process, self.folder = process, folder
        self.port = int(process.stdout.readline())

    @property
    def commands(self):
        """What it was told to run."""
        log = self.folder / "commands"
        return log.read_text().splitlines() if log.exists() else []

    def family(self):
        """All processes that run there."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """The server, known to a home of its own, as it would be to a user's."""
    for name in ("host", "id"):
        key = asyncssh.generate_private_key("ssh-ed25519")
        key.write_private_key(tmp_path / name)
        key.write_public_key(tmp_path / f"{name}.pub")
    (tmp_path / ".ssh").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            server = Server(process, tmp_path)
            known = (tmp_path / "host.pub").read_text()
            (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {known}")
            config = f"Host 127.0.0.1\n  Port {server.port}\n  IdentityFile {tmp_path / 'id'}\n"
            (tmp_path / ".ssh" / "config").write_text(config)
            yield server
        finally:
            process.kill()


@pytest.mark.slow
def test_a_cluster_is_started_and_closed_by_ssh(server):
    network, images = tg.radixnet(64, 8), tg.digit_images(200, 64)
    expected = tg.infer(network, images).compute(scheduler="threads")
    with (
        dask.config.set({"taskgraph-dnn.cluster.ssh-threads": 2}),
        executors.connected("ssh://tester@127.0.0.1,127.0.0.1") as where,
    ):
        assert executors.resources().threads == 4
        assert len(executors.resources().workers) == 2
        assert equal(tg.infer(network, images, partitions=4).compute(**where).outputs, expected.outputs)
        family = server.family()
        assert listening(family) == {"127.0.0.1"}
    assert sum("distributed.cli.dask_spec" in command for command in server.commands) == 3
    assert all(sys.executable in command for command in server.commands if "dask_spec" in command)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert not alive
    with pytest.raises(ValueError, match="No clients found"):
        default_client()


def listening(processes):
    """The addresses at which they take connections."""
    found = [connection for process in processes for connection in process.net_connections()]
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here to make certificates")
def test_a_cluster_by_ssh_has_tls_where_dask_has(server, tmp_path):
    make_certificates(tmp_path)
    files = {"cert": tmp_path / "cert.pem", "key": tmp_path / "key.pem"}
    tls = {f"{role}.{name}": str(file) for role in ("scheduler", "worker", "client") for name, file in files.items()}
    tls = {f"distributed.comm.tls.{name}": value for name, value in tls.items()}
    tls |= {"distributed.comm.tls.ca-file": str(tmp_path / "ca.pem"), "distributed.comm.require-encryption": True}
    network, images = tg.radixnet(64, 8), tg.digit_images(50, 64)
    with (
        dask.config.set(tls),
        executors.connected("ssh://127.0.0.1"),
    ):
        assert default_client().scheduler.address.startswith("tls://127.0.0.1:")
        assert executors.resources().workers[0].startswith("tls://127.0.0.1:")
        assert tg.infer(network, images).compute().samples == 50


def test_a_host_with_another_key_is_refused(server, tmp_path):
    other = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    (tmp_path / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{server.port} {other}")
    with (
        pytest.raises(PlanError, match="cannot start a cluster by SSH on 127.0.0.1: .*[Hh]ost key"),
        executors.connected("ssh://127.0.0.1"),
    ):
        pass
    assert not server.commands


def test_a_cluster_that_does_not_start_is_an_error(server):
    with (
        dask.config.set({"taskgraph-dnn.cluster.ssh-python": "/no/such/python"}),
        pytest.raises(PlanError, match="cannot start a cluster by SSH on 127.0.0.1: Worker failed to start"),
        executors.connected("ssh://127.0.0.1"),
    ):
        pass


def test_hosts_on_a_network_would_not_listen_on_loopback(monkeypatch):
    """What is asked of Dask; here is no second machine."""
    from taskgraph_dnn.executors import ssh

    asked = {}
    monkeypatch.setattr(ssh, "SSHCluster", lambda hosts, **options: asked.update(options, hosts=hosts))
    ssh._started("somebody", ["127.0.0.1", "nowhere.invalid"])
    assert asked["hosts"] == ["127.0.0.1", "127.0.0.1", "nowhere.invalid"]
    assert asked["connect_options"]["username"] == "somebody"
    assert "host" not in asked["scheduler_options"] | asked["worker_options"]
    assert asked["scheduler_options"]["dashboard_address"] == "127.0.0.1:0"
    assert asked["scheduler_options"]["protocol"] == "tcp"
    with dask.config.set({"distributed.comm.tls.ca-file": None}):
        ssh._started(None, ["localhost"])
    assert asked["scheduler_options"]["host"] == asked["worker_options"]["host"] == "127.0.0.1"


@pytest.mark.parametrize("scheduler", ["ssh://", "ssh://a b", "ssh://a,", "ssh://,a", "ssh://@a", "ssh://a@b@c"])
def test_hosts_that_are_none_are_refused(scheduler):
    with pytest.raises(PlanError, match="unknown scheduler '"):
        executors.check_scheduler(scheduler)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("ssh-threads", 0, "expected a whole number"),
        ("ssh-threads", "many", "expected a whole number"),
        ("ssh-python", 3, "expected a name"),
        ("temporary", 3, "expected a name"),
        ("temporary", "", "expected a name"),
    ],
)
def test_wrong_settings_are_refused_before_anything_starts(setting, value, message):
    with (
        dask.config.set({f"taskgraph-dnn.cluster.{setting}": value}),
        pytest.raises(PlanError, match=rf"taskgraph-dnn.cluster.{setting} is {value!r}, .*{message}"),
    ):
        executors.check_scheduler("threads")


def test_asyncssh_is_named_where_it_is_missing(monkeypatch):
    from taskgraph_dnn.executors import ssh

    monkeypatch.setattr(ssh, "find_spec", lambda name: None)
    with (
        pytest.raises(MissingDependencyError, match=r"needs asyncssh.* pip install 'taskgraph-dnn\[ssh\]'"),
        executors.connected("ssh://127.0.0.1"),
    ):
        pass


def test_jobs_need_a_cluster_that_goes_on_running():
    assert "scheduler is 'ssh://host', expected the address" in invoke("status", "--scheduler", "ssh://host", code=1)
