"""Every kernel against a dense float64 oracle, on pleasant and on ugly layers."""

import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.activations import Activations
from taskgraph_dnn.errors import KernelError, MissingDependencyError
from taskgraph_dnn.kernels import Kernel, kernel_names, kernel_problem, load_kernel, registry, resolve_kernel
from tests.conftest import random_layer

KERNELS = ["numba", "scipy"]


def run(kernel: str, layer: tg.Layer, rows: np.ndarray, lanes: int = 16) -> np.ndarray:
    """The layer's dense output for dense rows; every slot of the output is poisoned first."""
    chosen = load_kernel(kernel)
    block = Activations.from_rows(np.asarray(rows, np.float32), lanes)
    out = np.full((block.values.shape[0], layer.outputs, lanes), 1e30, np.float32)
    chosen.run(chosen.pack(layer), block.values, out)
    return out.transpose(0, 2, 1).reshape(-1, layer.outputs)[: len(rows)]


def oracle(layer: tg.Layer, rows: np.ndarray) -> np.ndarray:
    sums = np.asarray(rows, np.float64) @ layer.weights.toarray().astype(np.float64) + layer.bias
    if layer.activation == "relu":
        sums = np.maximum(sums, 0)
    return sums if layer.cap is None else np.minimum(sums, layer.cap)


def weights(kind: str, rng: np.random.Generator) -> np.ndarray:
    w = rng.standard_normal((37, 29)) * (rng.random((37, 29)) < 0.3)
    match kind:
        case "empty rows":
            w[::2] = 0
        case "empty columns":
            w[:, 1::2] = 0
        case "all zero":
            w[:] = 0
        case "dense row":
            w[5] = rng.standard_normal(29)
        case "dense column":
            w[:, 7] = rng.standard_normal(37)
        case "dense":
            w = rng.standard_normal((37, 29))
        case "one neuron":
            w = rng.standard_normal((1, 1))
        case "one output":
            w = w[:, :1]
        case "one input":
            w = rng.standard_normal((1, 29))
    return w


LAYERS = [
    "random",
    "empty rows",
    "empty columns",
    "all zero",
    "dense row",
    "dense column",
    "dense",
    "one neuron",
    "one output",
    "one input",
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(("activation", "cap"), [("relu", None), ("relu", 0.7), ("identity", None), ("identity", 0.7)])
@pytest.mark.parametrize("bias", ["number", "each"])
def test_against_the_oracle(kernel, kind, activation, cap, bias, rng):
    w = weights(kind, rng)
    b = -0.3 if bias == "number" else rng.standard_normal(w.shape[1])
    layer = tg.Layer(w, bias=b, activation=activation, cap=cap)
    rows = rng.standard_normal((45, w.shape[0])).astype(np.float32)
    np.testing.assert_allclose(run(kernel, layer, rows), oracle(layer, rows), rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
def test_more_inputs_than_16_bits_count(kernel, rng):
    columns = np.array([0, 65_535, 65_536])
    layer = tg.Layer(
        scipy.sparse.csr_array((np.ones(3), (columns, [0, 1, 2])), shape=(65_537, 3)), activation="identity"
    )
    rows = np.zeros((2, 65_537), np.float32)
    rows[0, columns], rows[1, columns] = [1, 2, 3], [4, 5, 6]
    np.testing.assert_array_equal(run(kernel, layer, rows), [[1, 2, 3], [4, 5, 6]])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_both_index_types(kernel, index, rng):
    layer = random_layer(rng, 20, 30)
    w = layer.weights
    wide = tg.Layer.from_csc_arrays(
        w.shape,
        w.indptr.astype(index),
        w.indices.astype(index),
        w.data,
        bias=layer.bias,
        activation="relu",
        cap=None,
    )
    rows = rng.standard_normal((5, 20)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, wide, rows), run(kernel, layer, rows))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("activation", "cap"), [("relu", None), ("relu", 2.0), ("identity", None), ("identity", 2.0)])
def test_nan_and_infinity_pass_as_ieee_says(kernel, activation, cap):
    layer = tg.Layer(np.array([[1.0, -1.0], [1.0, 1.0]]), activation=activation, cap=cap)
    rows = np.array([[np.nan, 1], [np.inf, 0], [-np.inf, 0], [np.inf, -np.inf], [0, 0]], np.float32)
    with np.errstate(invalid="ignore"):
        got = run(kernel, layer, rows)
        np.testing.assert_array_equal(got, oracle(layer, rows))
    assert np.isnan(got[0]).all()
    assert np.isnan(got[3, 0])


@pytest.mark.parametrize("kernel", KERNELS)
def test_denormals_and_negative_zero(kernel):
    tiny = np.float32(1e-42)
    layer = tg.Layer(np.eye(2), activation="identity")
    rows = np.array([[tiny, -tiny], [-0.0, 0.0]], np.float32)
    got = run(kernel, layer, rows)
    np.testing.assert_array_equal(got, rows)
    assert not tg.Layer(np.eye(2)).cap
    assert not run(kernel, tg.Layer(np.eye(2)), rows)[1].any()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_samples_bits_do_not_depend_on_its_place_or_neighbours(kernel, rng):
    layer = random_layer(rng, 50, 40)
    rows = rng.standard_normal((70, 50)).astype(np.float32)
    whole = run(kernel, layer, rows, lanes=64)
    for lanes in (16, 32, 64):
        np.testing.assert_array_equal(run(kernel, layer, rows, lanes), whole)
        np.testing.assert_array_equal(run(kernel, layer, rows[::-1], lanes)[::-1], whole)
        np.testing.assert_array_equal(run(kernel, layer, rows[33:34], lanes), whole[33:34])


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    inputs=st.integers(1, 20),
    outputs=st.integers(1, 20),
    samples=st.integers(0, 33),
    density=st.floats(0, 1),
    cap=st.none() | st.floats(0.125, 10, width=32),
    activation=st.sampled_from(["relu", "identity"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_random_layers(kernel, inputs, outputs, samples, density, cap, activation, seed):
    rng = np.random.default_rng(seed)
    layer = random_layer(rng, inputs, outputs, density=density, activation=activation, cap=cap)
    rows = rng.standard_normal((samples, inputs)).astype(np.float32)
    np.testing.assert_allclose(run(kernel, layer, rows), oracle(layer, rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_weights_and_inputs_are_only_read(kernel, rng):
    layer = random_layer(rng, 8, 8)
    chosen = load_kernel(kernel)
    values = rng.standard_normal((1, 8, 16)).astype(np.float32)
    values.flags.writeable = False
    chosen.run(chosen.pack(layer), values, np.empty((1, 8, 16), np.float32))


# The registry.


def test_unknown_kernels_are_refused_with_the_valid_names():
    with pytest.raises(KernelError, match="unknown kernel 'cuda', expected one of auto, numba, scipy"):
        load_kernel("cuda")


def test_auto_is_the_fastest_that_can_be_used(monkeypatch):
    assert resolve_kernel("auto")[0].name == "numba"
    assert resolve_kernel("scipy") == (load_kernel("scipy"), "as asked")
    monkeypatch.setitem(registry._OWN, "numba", ("taskgraph_dnn.kernels.nowhere", "numba", "numba"))
    load_kernel.cache_clear()
    kernel, reason = resolve_kernel("auto")
    assert kernel.name == "scipy"
    assert "pip install 'taskgraph-dnn[numba]'" in reason
    with pytest.raises(MissingDependencyError, match="kernel 'numba' needs numba, which is not installed"):
        load_kernel("numba")
    load_kernel.cache_clear()


def negate(packed, inputs, outputs):
    outputs[:] = -inputs


OTHER = Kernel("negate", pack=lambda layer: None, run=negate, multiply_adds_per_second=1e9)
BROKEN = object()


@pytest.fixture
def other_packages(monkeypatch):
    points = {
        "negate": EntryPoint("negate", "tests.test_kernels:OTHER", registry.GROUP),
        "broken": EntryPoint("broken", "tests.test_kernels:BROKEN", registry.GROUP),
        "gone": EntryPoint("gone", "no_such_package:KERNEL", registry.GROUP),
    }
    monkeypatch.setattr(registry, "_entry_points", lambda: points)
    load_kernel.cache_clear()
    yield
    load_kernel.cache_clear()


def test_other_packages_add_kernels(other_packages, rng):
    assert kernel_names() == ("numba", "scipy", "broken", "gone", "negate")
    network = tg.Network([tg.Layer(np.eye(4))])
    rows = rng.random((3, 4), dtype=np.float32)
    result = tg.infer(network, rows, kernel="negate").compute()
    np.testing.assert_array_equal(result.outputs.toarray(), -rows)


def test_a_bad_kernel_does_not_hide_the_others(other_packages):
    assert "is a object, expected a Kernel" in str(kernel_problem("broken"))
    assert "no_such_package" in str(kernel_problem("gone"))
    assert kernel_problem("scipy") is None
    with pytest.raises(KernelError, match="kernel 'gone' cannot be loaded: ModuleNotFoundError"):
        tg.infer(tg.Network([tg.Layer(np.eye(2))]), np.eye(2), kernel="gone")


WITHOUT_A_CACHE = """
import numpy as np, numba.core.caching as caching
impl = getattr(caching, "CacheImpl", None) or caching._CacheImpl
impl._locator_classes = []  # as where neither the package nor the home may be written to
import taskgraph_dnn as tg
network = tg.Network([tg.Layer(np.eye(3))])
result = tg.infer(network, np.eye(3), kernel="numba").compute()
assert (result.outputs.toarray() == np.eye(3)).all()
"""


def test_numba_needs_no_folder_for_its_cache():
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_A_CACHE], check=True)
