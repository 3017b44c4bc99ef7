"""The official 1,024 x 120 network and its first 1,200 images give exactly the 19 official categories."""

import subprocess
import sys

import numpy as np
import pytest
from distributed import Client, LocalCluster

import taskgraph_dnn as tg


@pytest.fixture(scope="module")
def files(official_data):
    folder = official_data / "graph-challenge"
    return {
        "network": folder / "neuron1024.tar.gz",
        "images": folder / "sparse-images-1024-first1200.tsv.gz",
        "truth": folder / "neuron1024-l120-categories.tsv",
    }


@pytest.fixture(scope="module")
def network(files):
    return tg.read_challenge_network(files["network"], neurons=1024, layers=120)


@pytest.fixture(scope="module")
def images(files):
    return tg.read_challenge_images(files["images"], neurons=1024)


@pytest.fixture(scope="module")
def truth(files):
    truth = tg.read_categories(files["truth"])
    assert len(truth) == 1812
    return truth[truth < 1200]


@pytest.fixture(scope="module")
def cluster():
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


@pytest.mark.parametrize("kernel", ["auto", "csr", "push", "scipy"])
@pytest.mark.parametrize("partitions", [1, 3, 16])
@pytest.mark.parametrize("where", ["threads", "cluster"])
def test_categories(network, images, truth, kernel, partitions, where, request):
    inference = tg.infer(network, images, partitions=partitions, kernel=kernel)
    if where == "threads":
        result = inference.compute()
    else:
        with Client(request.getfixturevalue("cluster")):
            result = inference.compute()
    assert len(truth) == 19
    np.testing.assert_array_equal(result.categories, truth)
    assert result.edges == 1200 * 32 * 1024 * 120


def test_categories_from_the_packed_file_on_the_cluster(network, images, truth, cluster, tmp_path):
    tg.write_packed(network, tmp_path / "network.safetensors")
    packed = tg.read_challenge_network(tmp_path / "network.safetensors", neurons=1024, layers=120)
    assert packed.digest == network.digest
    with Client(cluster):
        result = tg.infer(packed, images, partitions=3).compute()
    np.testing.assert_array_equal(result.categories, truth)


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_categories_from_the_command_line(files, scheduler, truth, tmp_path):
    command = [sys.executable, "-m", "taskgraph_dnn", "run", "--neurons", "1024", "--layers", "120"]
    command += [part for name, path in files.items() for part in (f"--{name}", str(path))]
    command += ["--scheduler", scheduler, "--partitions", "3", "--check", "20", "--categories", str(tmp_path / "c.tsv")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "19 categories" in done.stdout
    assert not done.stderr
    np.testing.assert_array_equal(tg.read_categories(tmp_path / "c.tsv"), truth)


def test_the_network_of_480_layers_would_be_missing_files(files):
    with pytest.raises(tg.FileError, match="n1024-l121.tsv"):
        tg.read_challenge_network(files["network"], neurons=1024, layers=480)
