"""What is special to the kernels of other libraries; `test_kernels` holds them to what all kernels promise."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

import taskgraph_dnn as tg
from taskgraph_dnn.errors import MissingDependencyError
from taskgraph_dnn.kernels import Kernel, kernel_problem, load_kernel
from tests.conftest import random_layer

#: Kernel, and the package that it needs.
OPTIONAL = {"mkl": "sparse_dot_mkl", "torch": "torch", "graphblas": "graphblas"}
DTYPES = [np.float32, np.float64]


def usable(name: str) -> Kernel:
    problem = kernel_problem(name)
    if problem is not None:
        pytest.skip(problem)
    return load_kernel(name)


@pytest.fixture(params=OPTIONAL)
def kernel(request) -> Kernel:
    return usable(request.param)


def run(kernel: Kernel, packed, inputs: np.ndarray, outputs: int) -> np.ndarray:
    tiles, _, lanes = inputs.shape
    out, alive = np.full((tiles, outputs, lanes), np.nan, inputs.dtype), np.zeros((tiles, lanes), np.bool_)
    kernel.run(packed, inputs, out, alive)
    np.testing.assert_array_equal(alive, out.any(axis=1))
    return out


# Inputs and outputs, as they come.


def misaligned(values: np.ndarray) -> np.ndarray:
    moved = np.empty(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    moved[...] = values
    return moved


def read_only(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values.flags.writeable = False
    return values


def strided(values: np.ndarray) -> np.ndarray:
    return values.repeat(2, axis=1).repeat(2, axis=2)[:, ::2, ::2]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", [misaligned, read_only, strided, lambda values: read_only(misaligned(values))])
def test_inputs_may_lie_anywhere(kernel, dtype, odd, rng):
    layer = random_layer(rng, 50, 40, activation="identity")
    packed = kernel.pack(layer, np.dtype(dtype))
    inputs = rng.standard_normal((3, 50, 16)).astype(dtype)
    given = odd(inputs)
    np.testing.assert_array_equal(run(kernel, packed, given, 40), run(kernel, packed, inputs, 40))
    np.testing.assert_array_equal(given, inputs)


@pytest.mark.parametrize("odd", [misaligned, strided])
def test_outputs_may_lie_anywhere(kernel, odd, rng):
    layer = random_layer(rng, 50, 40)
    packed = kernel.pack(layer, np.dtype(np.float32))
    inputs = rng.standard_normal((3, 50, 16)).astype(np.float32)
    out = odd(np.full((3, 40, 16), np.nan, np.float32))
    kernel.run(packed, inputs, out, np.empty((3, 16), np.bool_))
    np.testing.assert_array_equal(out, run(kernel, packed, inputs, 40))


# What is packed.


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [np.int32, np.int64])
@pytest.mark.parametrize("density", [0, 0.1, 1])
def test_weights_come_back_exactly(kernel, dtype, index, density, rng):
    w = random_layer(rng, 30, 20, density=density).weights
    arrays = w.indptr.astype(index), w.indices.astype(index), w.data
    layer = tg.Layer.from_csc_arrays(w.shape, *arrays, bias=np.zeros(20, np.float32), activation="relu", cap=None)
    unpacked = kernel.unpack(kernel.pack(layer, np.dtype(dtype)))
    assert unpacked.format == "csc"
    assert unpacked.shape == w.shape
    assert unpacked.dtype == np.float32
    for name in ("indptr", "indices", "data"):
        np.testing.assert_array_equal(getattr(unpacked, name), getattr(w, name))
        assert not getattr(layer.weights, name).flags.writeable


@pytest.mark.parametrize("dtype", DTYPES)
def test_float64_is_computed_in_float64(kernel, dtype):
    layer = tg.Layer(np.array([[1], [2.0**-30]]), activation="identity")
    got = run(kernel, kernel.pack(layer, np.dtype(dtype)), np.ones((1, 2, 16), dtype), 1)
    np.testing.assert_array_equal(got, dtype(1 + 2.0**-30))


def test_graphblas_keeps_dense_layers_sparse(rng):
    kernel = usable("graphblas")
    packed = kernel.pack(tg.Layer(rng.standard_normal((30, 20))), np.dtype(np.float32))
    run(kernel, packed, np.ones((1, 30, 16), np.float32), 20)
    assert packed.weights.ss.format == "csr"


def test_torch_stays_on_the_processor(rng):
    kernel = usable("torch")
    layer, inputs = random_layer(rng, 30, 20), rng.random((2, 30, 16), np.float32)
    want = run(kernel, kernel.pack(layer, inputs.dtype), inputs, 20)
    with pytest.importorskip("torch").device("meta"):  # what the user computes on by default
        np.testing.assert_array_equal(run(kernel, kernel.pack(layer, inputs.dtype), inputs, 20), want)


# Threads.


def test_several_threads_share_a_packed_layer(kernel, rng):
    layer = random_layer(rng, 300, 200, density=0.1)
    packed = kernel.pack(layer, np.dtype(np.float32))
    blocks = [rng.standard_normal((4, 300, 32)).astype(np.float32) for _ in range(8)]
    want = [run(kernel, packed, block, 200) for block in blocks]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, alone in zip(pool.map(lambda block: run(kernel, packed, block, 200), blocks), want, strict=True):
                np.testing.assert_array_equal(got, alone)


#: How a user lets the library use four threads, and what tells that it still would, in this thread.
FOUR_THREADS = {
    "mkl": (
        "import sparse_dot_mkl as mkl; mkl.mkl_set_num_threads(4)",
        "mkl.mkl_get_max_threads(), mkl.mkl_set_num_threads_local(0)",
    ),
    "torch": (
        "import torch; torch.set_num_threads(4); from taskgraph_dnn.kernels.torch_kernel import _set_mkl_threads",
        "torch.get_num_threads(), _set_mkl_threads(4)",  # which returns what was there
    ),
    "graphblas": (
        "import graphblas as gb; gb.ss.config['nthreads'] = 4; gb.ss.config['chunk'] = 1",
        "gb.ss.config['nthreads'], gb.core.ss.context.threadlocal.context['nthreads']",
    ),
}

ONE_THREAD = """
import threading
import numpy as np, psutil, scipy.sparse
import taskgraph_dnn as tg
from taskgraph_dnn.kernels import load_kernel

kernel = load_kernel("{name}")
{set}
layer = tg.Layer(scipy.sparse.random_array((2_000, 2_000), density=0.03, rng=np.random.default_rng(0)))
inputs, outputs, alive = np.ones((2, 2_000, 32), "f4"), np.empty((2, 2_000, 32), "f4"), np.empty((2, 32), bool)

def setting():
    return ({get},)

def run():
    kernel.run(packed, inputs, outputs, alive)
    seen.append((setting(), psutil.Process().num_threads()))

set, threads, seen = setting(), psutil.Process().num_threads(), []
assert 4 in set
packed = kernel.pack(layer, np.dtype("float32"))
run()
elsewhere = threading.Thread(target=run)  # where the library has not been used before
elsewhere.start()
elsewhere.join()
assert seen == [(set, threads), (set, threads + 1)], (seen, set, threads)
"""


def in_a_fresh_process(script: str, **environment: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, env={**os.environ, **environment})


def test_one_thread_whatever_the_user_has_set(kernel):
    set_four, get = FOUR_THREADS[kernel.name]
    script = ONE_THREAD.format(name=kernel.name, set=set_four, get=get)
    in_a_fresh_process(script, MKL_DYNAMIC="FALSE")  # or MKL would take no more threads than there are cores


# Where the libraries are.


@pytest.mark.parametrize("name", OPTIONAL)
def test_the_error_says_what_to_install(name, monkeypatch):
    for module in [module for module in sys.modules if module.split(".")[0] == OPTIONAL[name]]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.delitem(sys.modules, f"taskgraph_dnn.kernels.{name}_kernel", raising=False)
    monkeypatch.setitem(sys.modules, OPTIONAL[name], None)  # then an import of it fails
    load_kernel.cache_clear()
    message = rf"kernel '{name}' needs {OPTIONAL[name]}, which .* pip install 'taskgraph-dnn\[{name}\]'"
    with pytest.raises(MissingDependencyError, match=message):
        load_kernel(name)
    load_kernel.cache_clear()


def test_mkl_is_found_where_pip_puts_it(monkeypatch):
    usable("mkl")
    from taskgraph_dnn.kernels.mkl_kernel import _installed_mkl

    def found(*files: str) -> str | None:
        paths = [metadata.PackagePath(PurePosixPath(file)) for file in files]
        for path in paths:
            path.dist = metadata.Distribution.at("/site")
        monkeypatch.setattr(metadata, "files", lambda name: paths)
        return _installed_mkl()

    assert found("mkl.txt", "../lib/libmkl_core.so.3", "../lib/libmkl_rt.so.3") == "/../lib/libmkl_rt.so.3"
    assert found("../../Library/bin/mkl_rt.2.dll") == "/../../Library/bin/mkl_rt.2.dll"
    assert found("mkl.txt") is None
    monkeypatch.setattr(metadata, "files", lambda name: None)  # conda does not say what it has installed
    assert _installed_mkl() is None


def test_mkl_need_not_be_installed_by_pip(monkeypatch):
    usable("mkl")
    from taskgraph_dnn.kernels.mkl_kernel import _installed_mkl

    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "files", missing)
    assert _installed_mkl() is None


LIBRARY = """
import os
from taskgraph_dnn.kernels import load_kernel
before = dict(os.environ)
load_kernel("mkl")
assert os.environ == before
from sparse_dot_mkl._mkl_interface._cfunctions import mkl_library_name
assert mkl_library_name() == {expected!r}, mkl_library_name()
"""


def test_mkl_is_the_users_where_they_say_which(monkeypatch):
    usable("mkl")
    from taskgraph_dnn.kernels.mkl_kernel import _installed_mkl

    installed = _installed_mkl()
    if installed is None:
        pytest.skip("MKL is installed, but not by pip")
    monkeypatch.delenv("MKL_RT", raising=False)
    in_a_fresh_process(LIBRARY.format(expected=installed))
    other_name = str(Path(installed).resolve())
    in_a_fresh_process(LIBRARY.format(expected=other_name), MKL_RT=other_name)
