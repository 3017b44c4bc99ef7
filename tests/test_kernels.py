"""Every kernel that can be used here against a float64 oracle, on pleasant and on ugly layers."""

import os
import platform
import subprocess
import sys
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.activation_functions import ACTIVATIONS, activate
from taskgraph_dnn.activations import aligned_empty, fill_tiles
from taskgraph_dnn.errors import KernelError, MissingDependencyError
from taskgraph_dnn.kernels import (
    Kernel,
    at_rate,
    automatic_kernels,
    kernel_names,
    kernel_problem,
    load_kernel,
    registry,
)
from tests.conftest import random_layer

OWN = ["tile", "ell", "csr", "quads", "push", "dense", "scipy"]
KERNELS = [*OWN, *(name for name in ("mkl", "torch", "graphblas") if kernel_problem(name) is None)]

DTYPES = ["float32", "float64"]

#: The largest error, relative to outputs above 1.
TOLERANCE = {"float32": 1e-5, "float64": 1e-13}


def tiles(rows: np.ndarray, lanes: int, dtype: str) -> np.ndarray:
    values = aligned_empty((-(-len(rows) // lanes), rows.shape[1], lanes), dtype)
    fill_tiles(values, rows)
    return values


def run(kernel: str, layer: tg.Layer, rows: np.ndarray, lanes: int = 16, dtype: str = "float32") -> np.ndarray:
    """The layer's dense output for dense rows; every slot of the output is poisoned first."""
    chosen = load_kernel(kernel)
    rows = np.asarray(rows, np.float32)
    count = -(-len(rows) // lanes)
    out = aligned_empty((count, layer.outputs, lanes), dtype)
    out[...] = 1e30
    alive = np.zeros((count, lanes), np.bool_)
    inputs = scipy.sparse.csr_array(rows) if chosen.reads_rows else tiles(rows, lanes, dtype)
    chosen.run(chosen.pack(layer, np.dtype(dtype)), inputs, out, alive)
    outputs = out.transpose(0, 2, 1).reshape(-1, layer.outputs)[: len(rows)]
    np.testing.assert_array_equal(alive.ravel()[: len(rows)], outputs.any(axis=1))
    return outputs


def oracle(layer: tg.Layer, rows: np.ndarray) -> np.ndarray:
    """In float64, and without what is no edge: an infinite input does not reach outputs that it has no edge to."""
    w = layer.weights.toarray().astype(np.float64)
    with np.errstate(invalid="ignore"):
        products = np.asarray(rows, np.float64)[:, :, None] * w
        sums = np.where(w != 0, products, 0).sum(axis=1) + layer.bias
    return activate(sums, layer.activation, layer.negative_slope, layer.cap, axis=1)


def close(found: np.ndarray, expected: np.ndarray, dtype: str = "float32") -> None:
    assert found.dtype == dtype
    np.testing.assert_allclose(found, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


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
        case "duplicate supports":  # 40 outputs that read the same inputs, and 3 that read others
            w = rng.standard_normal((37, 43)) * (rng.random(37) < 0.4)[:, None]
            w[:, 40:] = rng.standard_normal((37, 3)) * (rng.random((37, 3)) < 0.5)
        case "nearly duplicate supports":  # 16, 16, 4 and a single one that has padding, too
            w = rng.standard_normal((37, 37)) * (rng.random((37, 37)) < 0.97) * (rng.random(37) < 0.6)[:, None]
        case "one neuron":
            w = rng.standard_normal((1, 1))
        case "one output":
            w = w[:, :1]
        case "one input":
            w = rng.standard_normal((1, 29))
        case "wide":
            w = rng.standard_normal((5, 200)) * (rng.random((5, 200)) < 0.5)
        case "many edges an output":  # `csr` takes these inputs in blocks, and the last of them are fewer
            w = 0.05 * rng.standard_normal((601, 31)) * (rng.random((601, 31)) < 0.6)
            w[:200, 3] = w[:, 4] = w[400:, 5] = 0
    return w


LAYERS = [
    "random",
    "empty rows",
    "empty columns",
    "all zero",
    "dense row",
    "dense column",
    "dense",
    "duplicate supports",
    "nearly duplicate supports",
    "one neuron",
    "one output",
    "one input",
    "wide",
    "many edges an output",
]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lanes", [16, 32])
def test_patterns(kernel, kind, dtype, lanes, rng):
    w = weights(kind, rng)
    layer = tg.Layer(w, bias=rng.standard_normal(w.shape[1]), activation="identity")
    rows = rng.standard_normal((45, w.shape[0])).astype(np.float32)
    close(run(kernel, layer, rows, lanes, dtype), oracle(layer, rows), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("cap", [None, 0.4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_activations(kernel, activation, cap, dtype, rng):
    slope = 0.2 if activation == "leaky_relu" else None
    layer = random_layer(rng, 37, 29, activation=activation, negative_slope=slope, cap=cap)
    rows = 3 * rng.standard_normal((45, 37)).astype(np.float32)
    close(run(kernel, layer, rows, 32, dtype), oracle(layer, rows), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("slope", [0.0, 1e-46, 1e-8, 1.0])
def test_slopes_at_their_ends(kernel, slope):
    layer = tg.Layer(np.eye(3), activation="leaky_relu", negative_slope=slope)
    rows = np.array([[-np.inf, -2, 3], [np.inf, 0, -1]], np.float32)
    np.testing.assert_allclose(run(kernel, layer, rows), oracle(layer, rows), rtol=1e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softmax"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_smooth_activations_far_from_zero(kernel, activation, dtype):
    layer = tg.Layer(np.eye(3), activation=activation)
    rows = np.array([[0, 1e-6, -1e-6], [20, -20, 1], [90, -90, 89], [1000, -1000, 999], [-1e38, 1e38, 0]], np.float32)
    with np.errstate(over="ignore"):
        close(run(kernel, layer, rows, dtype=dtype), oracle(layer, rows), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_tanh_is_exact_near_zero(kernel):
    layer = tg.Layer(np.eye(2), activation="tanh")
    rows = np.array([[1e-30, -1e-7], [1e-3, -0.1]], np.float32)
    np.testing.assert_allclose(run(kernel, layer, rows), np.tanh(rows.astype(np.float64)), rtol=3e-7)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("inputs", [65_536, 65_537])
def test_inputs_up_to_and_past_16_bits(kernel, inputs):
    columns = np.array([0, 65_535, inputs - 1])
    coordinates = columns, [0, 1, 2]
    layer = tg.Layer(scipy.sparse.csr_array((np.ones(3), coordinates), shape=(inputs, 3)), activation="identity")
    rows = np.zeros((2, inputs), np.float32)
    rows[0, columns], rows[1, columns] = [1, 3, 3], [4, 6, 6]
    np.testing.assert_array_equal(run(kernel, layer, rows), [[1, 3, 3], [4, 6, 6]])


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lanes", [16, 32])
def test_tiles_that_no_cache_holds(kernel, lanes, rng):
    shape = 70_000, 400
    layer = tg.Layer(scipy.sparse.random_array(shape, density=3e-4, rng=rng), bias=-1, activation="identity")
    rows = np.zeros((3, 70_000), np.float32)
    rows[:, rng.permutation(70_000)[:20_000]] = rng.standard_normal((3, 20_000))
    close(run(kernel, layer, rows, lanes) / 10, (rows.astype(np.float64) @ layer.weights - 1) / 10)


@pytest.mark.parametrize("kernel", ["csr", "quads"])
@pytest.mark.parametrize("inputs", [100, 40_000])
@pytest.mark.parametrize("activation", ["relu", "sigmoid"])
@pytest.mark.parametrize("samples", [16, 17, 31, 33, 65, 96])
@pytest.mark.parametrize("lanes", [16, 32])
def test_tiles_in_pairs_have_the_bits_of_single_ones(kernel, inputs, activation, samples, lanes, rng):
    w = scipy.sparse.random_array((inputs, 22), density=50 / inputs, rng=rng, data_sampler=rng.standard_normal)
    layer = tg.Layer(w.tocsc(), bias=-0.1, activation=activation)
    rows = rng.random((samples, inputs), np.float32) * (rng.random((samples, 1)) < 0.5)
    pairs = run(kernel, layer, rows, lanes)
    alone = [run(kernel, layer, rows[first : first + lanes], lanes) for first in range(0, samples, lanes)]
    np.testing.assert_array_equal(pairs, np.concatenate(alone))


@pytest.mark.parametrize(("density", "blocks"), [(0.03, 1), (1.0, 16)])
def test_csr_cuts_inputs_into_blocks_where_outputs_have_edges_enough(density, blocks, rng):
    layer = tg.Layer(scipy.sparse.random_array((1024, 40), density=density, rng=rng).tocsc())
    packed = load_kernel("csr").pack(layer, np.dtype(np.float32))
    assert (len(packed.indptr) - 1) // layer.outputs == blocks
    assert (packed.weights is layer.weights.data) == (blocks == 1)


def test_a_quad_loads_an_input_once_for_all_of_its_outputs_that_read_it(rng):
    """Outputs 0 to 3 and 4 to 7 are quads, 8 and 9 are left; of 600 inputs there are two blocks."""
    w = rng.standard_normal((600, 10)) * (rng.random((600, 10)) < 0.5)
    packed = load_kernel("quads").pack(tg.Layer(w), np.dtype(np.float32))
    parts = slice(0, 4), slice(4, 8), slice(8, 9), slice(9, 10)
    assert packed.indices.size == sum((w[:, part] != 0).any(axis=1).sum() for part in parts)
    assert packed.weights.size == np.count_nonzero(w)
    assert packed.table.shape == (2 * 4, 17)
    _, first, *stops = packed.table[4]  # the second block of outputs 0 to 3
    for pattern, (start, stop) in enumerate(zip([first, *stops], stops, strict=False), start=1):
        reads = (w[300:, :4] != 0) @ [1, 2, 4, 8] == pattern
        np.testing.assert_array_equal(packed.indices[start:stop], 300 + np.flatnonzero(reads))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_both_index_types(kernel, index, rng):
    layer = random_layer(rng, 20, 30)
    w = layer.weights
    indptr, indices = w.indptr.astype(index), w.indices.astype(index)
    wide = tg.Layer.from_csc_arrays(w.shape, indptr, indices, w.data, bias=layer.bias, activation="relu", cap=None)
    rows = rng.standard_normal((5, 20)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, wide, rows), run(kernel, layer, rows))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["random", "dense", "duplicate supports", "nearly duplicate supports"])
@pytest.mark.parametrize("activation", ["relu", "identity", "leaky_relu", "sigmoid", "tanh"])
@pytest.mark.parametrize("cap", [None, 2.0])
def test_nan_and_infinity_pass_as_ieee_says(kernel, kind, activation, cap, rng):
    w = weights(kind, rng)
    layer = tg.Layer(w, activation=activation, cap=cap)
    rows = rng.standard_normal((20, w.shape[0])).astype(np.float32)
    rows[0, 3], rows[1, 3], rows[2, 3] = np.nan, np.inf, -np.inf
    rows[3, [3, 4]] = np.inf, -np.inf
    got, expected = run(kernel, layer, rows), oracle(layer, rows)
    assert np.isnan(got).any() == np.isnan(expected).any()
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    close(got, expected)
    np.testing.assert_array_equal(got[4:], run(kernel, layer, rows[4:]))


@pytest.mark.parametrize("kernel", KERNELS)
def test_softmax_of_nan_and_infinity(kernel):
    layer = tg.Layer(np.eye(3), activation="softmax")
    rows = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2]], np.float32)
    close(run(kernel, layer, rows), oracle(layer, rows))


@pytest.mark.parametrize("kernel", KERNELS)
def test_denormals_and_negative_zero(kernel):
    tiny = np.float32(1e-42)
    rows = np.array([[tiny, -tiny], [-0.0, 0.0]], np.float32)
    np.testing.assert_array_equal(run(kernel, tg.Layer(np.eye(2), activation="identity"), rows), rows)
    assert not run(kernel, tg.Layer(np.eye(2)), rows)[1].any()
    # The only nonzero output is denormal, and the only one that is not positive is -0.
    assert run(kernel, tg.Layer(-np.eye(2), activation="identity"), rows[:, ::-1])[0].all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", ["random", "duplicate supports", "nearly duplicate supports"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_samples_bits_do_not_depend_on_its_place_or_neighbours(kernel, kind, dtype, rng):
    layer = tg.Layer(weights(kind, rng), activation="tanh")
    rows = rng.standard_normal((70, layer.inputs)).astype(np.float32)
    for lanes in (16, 32):
        whole = run(kernel, layer, rows, lanes, dtype)
        np.testing.assert_array_equal(run(kernel, layer, rows[::-1], lanes, dtype)[::-1], whole)
        np.testing.assert_array_equal(run(kernel, layer, rows[33:34], lanes, dtype), whole[33:34])
        other = rows.copy()
        other[::2] = np.inf
        np.testing.assert_array_equal(run(kernel, layer, other, lanes, dtype)[1::2], whole[1::2])


@pytest.mark.parametrize("kind", LAYERS)
def test_kernels_that_add_in_the_same_order_agree_to_the_bit(kind, rng):
    layer = tg.Layer(weights(kind, rng), bias=0.25)
    rows = rng.standard_normal((33, layer.inputs)).astype(np.float32)
    expected = run("csr", layer, rows)
    for kernel in ("tile", "ell", "push"):
        for lanes in (16, 32):
            np.testing.assert_array_equal(run(kernel, layer, rows, lanes), expected)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_packing_loses_nothing(kernel, kind, dtype, rng):
    layer = tg.Layer(weights(kind, rng))
    chosen = load_kernel(kernel)
    unpacked = chosen.unpack(chosen.pack(layer, np.dtype(dtype)))
    assert (unpacked.shape, unpacked.nnz, unpacked.dtype) == (layer.weights.shape, layer.nnz, np.float32)
    np.testing.assert_array_equal(unpacked.toarray(), layer.weights.toarray())


@pytest.mark.parametrize("kernel", KERNELS)
@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    samples=st.integers(0, 33),
    density=st.floats(0, 1),
    alike=st.floats(0, 1),
    odd=st.sampled_from([0, 0, 0.01]),
    cap=st.none() | st.floats(0.125, 10, width=32),
    activation=st.sampled_from(ACTIVATIONS),
    lanes=st.sampled_from([16, 32]),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_random_layers(kernel, inputs, outputs, samples, density, alike, odd, cap, activation, lanes, dtype, seed):
    rng = np.random.default_rng(seed)
    here = np.where(rng.random(outputs) < alike, rng.random((inputs, 1)), rng.random((inputs, outputs))) < density
    bias = rng.standard_normal(outputs)
    layer = tg.Layer(rng.standard_normal((inputs, outputs)) * here, bias=bias, activation=activation, cap=cap)
    rows = rng.standard_normal((samples, inputs)).astype(np.float32)
    rows[rng.random(rows.shape) < odd] = rng.choice([np.inf, -np.inf, np.nan])
    with np.errstate(invalid="ignore"):
        close(run(kernel, layer, rows, lanes, dtype), oracle(layer, rows), dtype)


@pytest.mark.parametrize("kernel", KERNELS)
def test_weights_and_inputs_are_only_read(kernel, rng):
    layer = random_layer(rng, 8, 8)
    chosen = load_kernel(kernel)
    inputs = scipy.sparse.random_array((16, 8), density=0.5, rng=rng, dtype=np.float32, format="csr")
    arrays = [inputs.data, inputs.indices, inputs.indptr]
    if not chosen.reads_rows:
        inputs = rng.standard_normal((1, 8, 16)).astype(np.float32)
        arrays = [inputs]
    for array in arrays:
        array.flags.writeable = False
    packed = chosen.pack(layer, np.dtype(np.float32))
    chosen.run(packed, inputs, np.empty((1, 8, 16), np.float32), np.empty((1, 16), np.bool_))


@pytest.mark.parametrize("kernel", [name for name in KERNELS if name != "push"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("offset", [1, 4, 20])
def test_inputs_and_outputs_may_lie_anywhere(kernel, dtype, offset, rng):
    layer = random_layer(rng, 19, 21)
    chosen = load_kernel(kernel)
    packed = chosen.pack(layer, np.dtype(dtype))
    aligned = aligned_empty((2, 19, 16), dtype)
    aligned[...] = rng.standard_normal(aligned.shape)

    def elsewhere(shape):
        return np.frombuffer(bytearray(offset + np.dtype(dtype).itemsize * int(np.prod(shape))), dtype, offset=offset)

    inputs, outputs = elsewhere((2, 19, 16)).reshape(2, 19, 16), elsewhere((2, 21, 16)).reshape(2, 21, 16)
    inputs[...] = aligned
    expected, alive = aligned_empty((2, 21, 16), dtype), np.empty((2, 16), np.bool_)
    chosen.run(packed, aligned, expected, alive)
    chosen.run(packed, inputs, outputs, alive)
    np.testing.assert_array_equal(outputs, expected)


@pytest.mark.parametrize("kernel", ["tile", "ell", "csr", "push"])
def test_other_tiles_are_refused(kernel, rng):
    with pytest.raises(KernelError, match="tiles of 16 or 32 lanes"):
        run(kernel, random_layer(rng, 8, 8), np.ones((3, 8)), lanes=24)


@pytest.mark.parametrize("kernel", ["tile", "ell", "csr", "quads"])
@pytest.mark.parametrize(
    ("inputs", "outputs", "alive"),
    [((2, 7, 16), (2, 9, 16), (2, 16)), ((2, 8, 16), (1, 9, 16), (1, 16)), ((2, 8, 16), (2, 8, 16), (2, 16))],
)
def test_blocks_of_another_shape_are_refused(kernel, inputs, outputs, alive, rng):
    chosen = load_kernel(kernel)
    packed = chosen.pack(random_layer(rng, 8, 9), np.dtype("float32"))
    with pytest.raises(KernelError, match=r"do not belong to a layer of \(8, 9\)"):
        chosen.run(packed, np.ones(inputs, "f"), np.ones(outputs, "f"), np.ones(alive, np.bool_))


def test_more_rows_than_tiles_are_refused(rng):
    chosen = load_kernel("push")
    packed = chosen.pack(random_layer(rng, 8, 9), np.dtype("float32"))
    with pytest.raises(KernelError, match=r"inputs \(2, 8, 16\), outputs \(1, 9, 16\)"):
        chosen.run(packed, scipy.sparse.csr_array((17, 8), dtype="f"), np.ones((1, 9, 16), "f"), np.ones((1, 16), "?"))


def test_a_single_output_of_a_padded_group_is_repaired_too():
    """Eight outputs that read all inputs, and a ninth that reads all but one, which is infinite."""
    w = np.ones((40, 9))
    w[0, 8] = 0
    rows = np.ones((1, 40), np.float32)
    rows[0, 0] = np.inf
    for kernel in ("tile", "ell", "csr", "quads", "push", "dense"):
        assert run(kernel, tg.Layer(w), rows).tolist() == [[np.inf] * 8 + [39.0]]


@pytest.mark.parametrize(("dtype", "ulps", "lowest"), [("float32", 4, -87.0), ("float64", 4, -700.0)])
@pytest.mark.parametrize("activation", ["sigmoid", "tanh"])
def test_smooth_activations_to_the_last_places(dtype, ulps, lowest, activation):
    x = np.linspace(lowest, -lowest, 4001).astype(np.float32)
    got = run("csr", tg.Layer(np.eye(1), activation=activation), x[:, None], dtype=dtype)[:, 0]
    exact = x.astype(np.longdouble)
    expected = np.tanh(exact) if activation == "tanh" else 1 / (1 + np.exp(-exact))
    error = np.abs(got.astype(np.longdouble) - expected) / np.spacing(np.abs(expected).astype(dtype))
    assert error.max() <= ulps


def test_pushed_rows_may_be_strided_and_are_looked_at_again(rng):
    values, columns = np.repeat([2.0, 3.0], 2).astype(np.float32), np.array([0, 2], np.int32)
    rows = scipy.sparse.csr_array((values[::2], columns, np.array([0, 1, 2], np.int32)), shape=(2, 3))
    network = tg.Network([tg.Layer(np.eye(3))])
    inference = tg.infer(network, rows, kernel="push")
    np.testing.assert_array_equal(inference.compute().outputs.toarray(), [[2, 0, 0], [0, 0, 3]])
    rows.indices[1] = 2**30
    with pytest.raises(tg.InputError, match="column numbers outside 0 to 2: they were changed after `infer`"):
        inference.compute()


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_weights_are_stored_once(dtype, rng):
    """Of a group of outputs, and of a row that is pushed; an infinite input goes through all of its edges."""
    weights = np.kron(rng.random((40, 3)) < 0.4, np.ones((1, 16))) * rng.uniform(0.5, 1.0, (40, 1))
    equal = np.where(weights != 0, 0.25, 0)
    rows = rng.random((33, 40)).astype(np.float32)
    rows[7, 5] = np.inf
    for kernel, w, stored in (("tile", equal, 48), ("push", weights, np.count_nonzero(weights) // 16)):
        layer, chosen = tg.Layer(w, bias=-0.1), load_kernel(kernel)
        assert chosen.pack(layer, np.dtype(dtype)).weights.size == stored
        np.testing.assert_array_equal(run(kernel, layer, rows, dtype=dtype), run("csr", layer, rows, dtype=dtype))


def test_ell_refuses_what_would_be_padding_only(rng):
    weights = scipy.sparse.csc_array(
        (np.ones(70_000), np.arange(70_000), np.r_[0, np.full(70_000, 70_000)]), (70_000,) * 2
    )
    with pytest.raises(
        KernelError, match="ell would store 4,900,000,000 edges for 70,000, because one output has 70,000"
    ):
        load_kernel("ell").pack(tg.Layer(weights), np.dtype("float32"))


def test_indices_out_of_range_cannot_reach_a_kernel():
    weights = scipy.sparse.csc_array(np.eye(3))
    weights.indices[1] = 3
    with pytest.raises(tg.NetworkError, match="indices"):
        tg.Layer(weights)
    rows = scipy.sparse.csr_array(np.eye(3, dtype=np.float32))
    rows.indices[1] = -1
    with pytest.raises(tg.InputError, match="indices"):
        tg.infer(tg.Network([tg.Layer(np.eye(3))]), rows, kernel="push")


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these are processors of another kind")
@pytest.mark.parametrize("processor", ["haswell +avx,+avx2,+fma,+bmi,+bmi2,+popcnt,+sse4.2", "x86-64 +sse2"])
def test_processors_with_shorter_vectors(processor, tmp_path):
    """AVX2 with 16 registers, and SSE2, which has no fused multiply-add either: LLVM makes do with what there is."""
    name, features = processor.split()
    variables = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    chosen = "test_patterns or test_activations or bits or nan"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        __file__,
        "-k",
        f"({chosen}) and not scipy",
    ]
    subprocess.run(command, check=True, env=os.environ | variables)


# The registry.


def test_unknown_kernels_are_refused_with_the_valid_names():
    with pytest.raises(
        KernelError, match="unknown kernel 'cuda', expected one of auto, tile, ell, csr, quads, push, dense, scipy"
    ):
        load_kernel("cuda")


def test_without_numba_the_others_are_left(monkeypatch):
    assert [kernel.name for kernel in automatic_kernels()] == OWN
    for name in ("tile", "ell", "csr", "quads", "push"):
        monkeypatch.setitem(registry._OWN, name, ("taskgraph_dnn.kernels.nowhere", "numba", "numba"))
    load_kernel.cache_clear()
    assert [kernel.name for kernel in automatic_kernels()] == ["dense", "scipy"]
    with pytest.raises(MissingDependencyError, match="kernel 'csr' needs numba, which is not installed"):
        load_kernel("csr")
    load_kernel.cache_clear()


def negate(packed, inputs, outputs, alive):
    outputs[:] = -inputs
    np.any(outputs, axis=1, out=alive)


OTHER = Kernel("negate", lambda layer, dtype: layer, lambda packed: packed.weights, negate, at_rate(1e9))
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
    assert kernel_names() == (*OWN, "mkl", "torch", "graphblas", "broken", "gone", "negate")
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
import errno, sys
import numpy as np, numba.core.caching as caching
if sys.argv[1] == "no folder":  # as where neither the package nor the home may be written to
    impl = getattr(caching, "CacheImpl", None) or caching._CacheImpl
    impl._locator_classes = []
else:
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device") if sys.argv[1] == "full disk" else EOFError()
    caching.IndexDataCacheFile.save = caching.IndexDataCacheFile.load = fail
import taskgraph_dnn as tg
network = tg.Network([tg.Layer(np.eye(3))])
result = tg.infer(network, np.eye(3), kernel="csr").compute()
assert (result.outputs.toarray() == np.eye(3)).all()
"""


@pytest.mark.parametrize("trouble", ["no folder", "full disk", "damaged file"])
def test_numba_needs_no_cache(trouble):
    subprocess.run([sys.executable, "-W", "error", "-c", WITHOUT_A_CACHE, trouble], check=True)
