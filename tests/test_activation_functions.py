"""The activations against plain formulas, number by number, and on the numbers that formulas forget."""

import math

import numpy as np
import pytest

from taskgraph_dnn.activation_functions import ACTIVATIONS, activate

DTYPES = [np.float32, np.float64]
NAN, INF = math.nan, math.inf


def formula(activation, slope, cap):
    """From one list of sums to the list of outputs, in Python's float64."""

    def outputs(sums):
        match activation:
            case "relu":
                found = [x if x > 0 else 0.0 for x in sums]
            case "identity":
                found = list(sums)
            case "leaky_relu":
                found = [x if x > 0 else slope * x for x in sums]
            case "sigmoid":
                found = [1 / (1 + math.exp(-x)) for x in sums]
            case "tanh":
                found = [math.tanh(x) for x in sums]
            case "softmax":
                total = math.fsum(math.exp(x) for x in sums)
                found = [math.exp(x) / total for x in sums]
        return found if cap is None else [min(x, cap) for x in found]

    return outputs


def applied(values, activation, slope=None, cap=None, axis=0, dtype=np.float64):
    """The outputs of a copy; every numpy warning is an error, as a user may have asked for."""
    array = np.array(values, dtype)
    with np.errstate(all="raise"):
        found = activate(array, activation, slope, cap, axis)
    assert found is array
    assert found.dtype == dtype
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("cap", [None, 0.3, 2.0])
@pytest.mark.parametrize(
    ("activation", "slope"),
    [(name, None) for name in ACTIVATIONS if name != "leaky_relu"] + [("leaky_relu", s) for s in (0.0, 0.01, 0.7, 1.0)],
)
def test_against_the_formula(activation, slope, cap, axis, dtype, rng):
    sums = (4 * rng.standard_normal((13, 16))).astype(dtype)
    expected = np.apply_along_axis(formula(activation, slope, cap), axis, sums.astype(np.float64))
    steps = 4 + np.ptp(sums) if activation == "softmax" else 4  # which rounds the distance to the largest sum
    tolerance = steps * np.finfo(dtype).eps
    np.testing.assert_allclose(applied(sums, activation, slope, cap, axis, dtype), expected, rtol=tolerance, atol=0)


UGLY = [NAN, INF, -INF, -0.0, 1e-42, -1e-42, 1e30, -1e30, -1000.0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cap", [None, 0.25])
@pytest.mark.parametrize(
    ("activation", "slope", "expected"),
    [
        ("relu", None, [NAN, INF, 0, 0, 1e-42, 0, 1e30, 0, 0]),
        ("identity", None, UGLY),
        ("leaky_relu", 0.5, [NAN, INF, -INF, 0, 1e-42, -0.5e-42, 1e30, -5e29, -500]),
        ("leaky_relu", 1.0, UGLY),
        ("leaky_relu", 0.0, [NAN, INF, 0, 0, 1e-42, 0, 1e30, 0, 0]),
        ("leaky_relu", 1e-320, [NAN, INF, None, 0, 1e-42, 0, 1e30, 0, 0]),  # 0 in float32
        ("sigmoid", None, [NAN, 1, 0, 0.5, 0.5, 0.5, 1, 0, 0]),
        ("tanh", None, [NAN, 1, -1, 0, 1e-42, -1e-42, 1, -1, -1]),
    ],
)
def test_ugly_sums(activation, slope, expected, cap, dtype):
    if slope == 1e-320:
        expected = [x if x is not None else -INF if dtype is np.float64 else 0 for x in expected]
    expected = np.array(expected, dtype)
    expected = expected if cap is None else np.minimum(expected, dtype(cap))
    found = applied(UGLY, activation, slope, cap, dtype=dtype)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-45 if dtype is np.float32 else 1e-280)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("activation", "slope"), [("identity", None), ("leaky_relu", 0.5), ("tanh", None)])
def test_negative_zero_stays(activation, slope, dtype):
    assert np.signbit(applied([-0.0], activation, slope, dtype=dtype)[0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ([7], [1]),
        ([0, 0, -0.0, 1e-42], [0.25, 0.25, 0.25, 0.25]),
        ([1e30, 1e30, 0], [0.5, 0.5, 0]),
        ([3e38, -3e38], [1, 0]),
        ([-1e30, -1e30], [0.5, 0.5]),
        ([0, -INF], [1, 0]),
        ([0, INF], [NAN, NAN]),
        ([-INF, -INF], [NAN, NAN]),
        ([0, NAN, 1], [NAN, NAN, NAN]),
    ],
)
def test_softmax_of_ugly_sums(sums, expected, dtype):
    np.testing.assert_array_equal(applied(sums, "softmax", dtype=dtype), expected)


def test_softmax_keeps_samples_apart():
    sums = [[1, 1, 5], [NAN, 1, INF], [1, 1, 5]]
    third = [1 / 3] * 3
    np.testing.assert_allclose(applied(sums, "softmax", axis=0)[:, 1], third)
    np.testing.assert_allclose(applied(sums, "softmax", axis=0)[:, [0, 2]], NAN)
    assert np.isfinite(applied(sums, "softmax", axis=1)[[0, 2]]).all()
    assert np.isnan(applied(sums, "softmax", axis=1)[1]).all()


def test_softmax_of_many_outputs_sums_to_one():
    outputs = applied(np.zeros((65_536, 16)), "softmax", dtype=np.float32)
    np.testing.assert_array_equal(outputs, np.float32(1 / 65_536))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 1), ((3, 0), 0)])
def test_no_samples(activation, shape, axis):
    assert applied(np.zeros(shape), activation, 0.01, None, axis).shape == shape


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_samples_bits_do_not_depend_on_its_neighbours(activation, rng):
    sums = (5 * rng.standard_normal((1003, 64))).astype(np.float32)
    whole = applied(sums, activation, 0.01, dtype=np.float32)
    for first, lanes in ((0, 16), (48, 16), (32, 32)):
        part = slice(first, first + lanes)
        np.testing.assert_array_equal(applied(sums[:, part], activation, 0.01, dtype=np.float32), whole[:, part])
