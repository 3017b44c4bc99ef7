"""What is proved of layers holds in every kernel, for any samples; and it is proved where it is worth something."""

import numpy as np
import pytest
import scipy.sparse
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import taskgraph_dnn as tg
from taskgraph_dnn.kernels import load_kernel
from taskgraph_dnn.reductions.certificates import certify, keeps_zero, nothing_proved, threshold
from tests.conftest import random_layer

KERNELS = ["tile", "ell", "csr", "quads", "dense", "scipy", "push"]


def run(layer, rows, kernel, dtype):
    """The layer's outputs, samples x outputs, as `kernel` computes them."""
    kernel, dtype = load_kernel(kernel), np.dtype(dtype)
    values = np.zeros((1, layer.inputs, 16), dtype)
    values[0, :, : len(rows)] = rows.T
    inputs = scipy.sparse.csr_array(rows) if kernel.reads_rows else values  # rows are always float32
    outputs, alive = np.empty((1, layer.outputs, 16), dtype), np.empty((1, 16), bool)
    kernel.run(kernel.pack(layer, dtype), inputs, outputs, alive)
    return outputs[0, :, : len(rows)].T


@given(
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 5),
    negative=st.sampled_from([0.0, 0.02, 0.2]),
    bias=st.sampled_from([-3.0, -0.3, 0.0, 0.7, 5.0]),
    cap=st.sampled_from([0.1, 1.0, 3.3, 32.0]),
    before=st.sampled_from([None, 0.1, 1.7, 32.0]),
    activation=st.sampled_from(["relu", "identity", "leaky_relu"]),
    dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=300)
def test_inputs_at_or_above_the_threshold_give_the_cap(
    inputs, outputs, negative, bias, cap, before, activation, dtype, seed
):
    """To the last bit, also where they are exactly at the threshold, and where they are infinite."""
    rng = np.random.default_rng(seed)
    weights = rng.random((inputs, outputs)) * rng.choice([0.01, 1, 100])
    weights *= np.where(rng.random(weights.shape) < negative, -0.3, 1)
    weights[rng.random(weights.shape) < rng.choice([0, 0.5])] = 0
    layer = tg.Layer(weights, bias=bias * rng.random(outputs), activation=activation, cap=cap)
    least = threshold(layer, before)
    assume(least <= (1e6 if before is None else before))
    number = np.dtype(dtype).type
    most = 1e6 if before is None else before
    rows = rng.uniform(least, most, (6, inputs))
    rows[0], rows[1] = least, most
    rows = np.clip(rows.astype(np.float32), np.float32(least), np.float32(most))
    if before is None:
        rows[2, 0], rows[3] = np.inf, np.finfo(np.float32).max
    for kernel in KERNELS:
        assert (run(layer, rows, kernel, dtype) == number(cap)).all(), kernel


@given(seed=st.integers(0, 2**32 - 1), before=st.sampled_from([None, 2.0]), bias=st.sampled_from([-0.5, 0.0, 0.3]))
@settings(max_examples=50)
def test_thresholds_are_no_higher_than_they_must_be(seed, before, bias):
    """A sample a little below the threshold, at the worst place, stays below the cap."""
    rng = np.random.default_rng(seed)
    layer = tg.Layer(rng.random((12, 3)) + 0.01, bias=bias, cap=1.0)
    least = threshold(layer, before)
    outputs = run(layer, np.full((1, 12), least * (1 - 1e-4), np.float32), "csr", "float32")
    assert outputs.min() < 1


def test_half_of_the_cap_saturates_a_radixnet():
    """32 weights of 1/16: 2 x - 0.3 >= 32, from x = 16.15 on."""
    proved = certify(tg.radixnet(1024, 6, seed=1))
    assert proved.thresholds[1:-1] == pytest.approx((16.15,) * 5, rel=1e-4)
    assert proved.settled == (6,) * 7
    assert proved.dead == (True,) * 7


@pytest.mark.parametrize(
    "layer",
    [
        tg.Layer(np.ones((3, 3))),  # no cap
        tg.Layer(np.diag([1.0, 1.0, 0.0]), cap=1.0),  # an output without an edge
        tg.Layer(-np.ones((3, 3)), cap=1.0),  # no positive weight
        tg.Layer(np.full((3, 3), 1e36), cap=1.0),  # sums may come near the largest float32
    ],
)
def test_no_threshold_where_nothing_is_known(layer):
    assert threshold(layer, 32.0) == np.inf


def test_negative_weights_need_a_bound_of_the_inputs():
    layer = tg.Layer(np.array([[4.0], [-1.0]]), cap=1.0)
    assert threshold(layer, None) == np.inf
    assert threshold(layer, 1.0) == pytest.approx(0.5, rel=1e-5)
    assert threshold(tg.Layer(np.array([[4.0], [1.0]]), cap=1.0), None) == pytest.approx(0.2, rel=1e-5)


def test_sums_that_overflow_are_not_certified():
    """3e38 + 3e38 - 3e38 - 3e38 is 0, or infinite, or nan, as it is added."""
    layer = tg.Layer(np.array([[3e38], [3e38], [-3e38], [-2.9e38]]), cap=1.0)
    assert threshold(layer, 1.0) == np.inf
    assert threshold(tg.Layer(layer.weights * 1e-30, cap=1.0), 1.0) < np.inf


@pytest.mark.parametrize("before", [None, 1.0])
@pytest.mark.parametrize(("weight", "cap"), [(1e38, 1.8e-7), (0.3, 1e-42), (1e-30, 1e-38)])
def test_numbers_that_underflow_are_not_certified(weight, cap, before):
    """A threshold or a product near the smallest float32 is rounded by more than its last digit."""
    layer = tg.Layer(np.full((18, 2), weight), cap=cap)
    least = np.float32(threshold(layer, before))
    if np.isfinite(least):
        outputs = run(layer, np.full((1, 18), least, np.float32), "csr", "float32")
        assert outputs.min() == np.float32(cap)


@pytest.mark.parametrize("activation", ["sigmoid", "tanh", "softmax"])
def test_activations_that_never_reach_a_cap_have_no_threshold(activation):
    network = tg.Network([tg.Layer(np.eye(3), cap=1.0), tg.Layer(np.ones((3, 3)), activation=activation, cap=0.5)])
    assert certify(network).thresholds[1] == np.inf


@pytest.mark.parametrize(
    ("activation", "bias", "keeps"),
    [
        ("relu", [0, -1], True),
        ("relu", [-1, 1e-30], False),
        ("identity", [0, 0], True),
        ("identity", [0, -1], False),
        ("leaky_relu", [0, 0], True),
        ("leaky_relu", [0, -1], False),
        ("tanh", [0, 0], True),
        ("tanh", [0, 1e-6], False),
        ("sigmoid", [0, 0], False),
        ("sigmoid", [-100, -100], False),
        ("softmax", [0, 0], False),
    ],
)
@pytest.mark.parametrize("kernel", KERNELS)
def test_zeros_stay_zeros(activation, bias, keeps, kernel):
    layer = tg.Layer(np.ones((3, 2)), bias=bias, activation=activation)
    assert keeps_zero(layer) == keeps
    outputs = run(layer, np.zeros((2, 3), np.float32), kernel, "float32")
    assert not (keeps and outputs.any())


def test_a_later_layer_that_revives_the_dead():
    keeping, reviving = tg.Layer(np.eye(2), bias=-1), tg.Layer(np.eye(2), bias=[0, 1])
    assert certify(tg.Network([keeping] * 3)).dead == (True,) * 4
    assert certify(tg.Network([keeping, reviving, keeping])).dead == (False, False, True, True)
    assert certify(tg.Network([keeping, keeping, reviving])).dead == (False, False, False, True)


def test_where_saturation_ends():
    strong, weak = tg.Layer(2 * np.eye(2), cap=1.0), tg.Layer(0.5 * np.eye(2), cap=1.0)
    proved = certify(tg.Network([strong, strong, strong, weak, strong, strong]))
    assert proved.settled == (3, 3, 3, 6, 6, 6, 6)
    assert proved.thresholds[1] == pytest.approx(0.5, rel=1e-5)
    assert proved.thresholds[3] == pytest.approx(2, rel=1e-5)  # which no input reaches: they are at most 1


def test_equal_layers_in_a_row_are_counted(rng):
    one, other = random_layer(rng, 4, 4), random_layer(rng, 4, 4)
    twin = tg.Layer(one.weights, bias=one.bias)
    assert certify(tg.Network([one, twin, one, other, one])).tied == (2, 1, 0, 0, 0, 0)


def test_certificates_are_made_once_and_remembered_by_the_layers(rng):
    layer = random_layer(rng, 4, 4, cap=1.0)
    network = tg.Network([layer, layer])
    assert certify(network) is certify(network)
    assert "keeps zero" in layer.facts
    assert any(name.startswith("threshold") for name in layer.facts)


def test_nothing_proved_has_the_same_shape(rng):
    network = tg.Network([random_layer(rng, 4, 4, cap=1.0)] * 3)
    nothing, proved = nothing_proved(3), certify(network)
    for name in ("dead", "thresholds", "settled", "tied"):
        assert len(getattr(nothing, name)) == len(getattr(proved, name)), name
    assert not any(nothing.dead)
    assert all(stop == number + 1 for number, stop in enumerate(nothing.settled))
