"""What importers share: affine functions, sparse maps and layers in the making, beside plain numpy."""

from itertools import product
from math import inf, nan

import numpy as np
import pytest
import scipy.sparse

from taskgraph_dnn.errors import NetworkError
from taskgraph_dnn.models import operators
from taskgraph_dnn.models.drafts import Drafts, UnsupportedError
from taskgraph_dnn.models.maps import adaptive_pooling, convolution, pooling
from taskgraph_dnn.models.steps import Step, translate
from taskgraph_dnn.network import NETWORK_INPUT
from tests.models import assert_agrees


@pytest.fixture
def drafts():
    return Drafts("model")


def check(drafts, value, rows, expected, *, layers=None):
    """The network that ends with a value gives what numpy gives."""
    network = drafts.network(value)
    assert_agrees(network, rows, expected)
    if layers is not None:
        assert len(network) == layers
    return network


# Maps.


def convolved(x, weights, strides, pads, dilations, groups):
    """A convolution of two axes, number by number."""
    x = np.pad(x, [(0, 0), *pads])
    filters, of_group, *kernel = weights.shape
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[1:], kernel, strides, dilations, strict=True)]
    out = np.zeros((filters, *sizes))
    for f, c, i, j, u, v in product(*map(range, (filters, of_group, *sizes, *kernel))):
        channel = c + f // (filters // groups) * of_group
        at = channel, i * strides[0] + u * dilations[0], j * strides[1] + v * dilations[1]
        out[f, i, j] += weights[f, c, u, v] * x[at]
    return out


@pytest.mark.parametrize(
    ("strides", "pads", "dilations", "groups"),
    [
        ((1, 1), ((0, 0), (0, 0)), (1, 1), 1),
        ((2, 1), ((1, 2), (0, 1)), (1, 2), 2),
        ((3, 2), ((2, 0), (3, 3)), (2, 1), 4),
    ],
)
def test_a_convolution_is_a_sparse_matrix(rng, strides, pads, dilations, groups):
    x, weights = rng.standard_normal((4, 6, 7)), rng.standard_normal((8, 4 // groups, 3, 2))
    weights[rng.random(weights.shape) < 0.5] = 0
    matrix, shape = convolution(x.shape, weights, strides, pads, dilations, groups)
    expected = convolved(x, weights, strides, pads, dilations, groups)
    assert shape == expected.shape
    np.testing.assert_allclose((x.ravel() @ matrix).reshape(shape), expected, atol=1e-12)
    assert matrix.nnz <= np.count_nonzero(weights) * shape[1] * shape[2]
    assert matrix.data.all()


def averages(x, kernel, stride, pad, counts_pads):
    """Averages over windows of an axis, number by number."""
    padded, there = np.pad(x, pad), np.pad(np.ones(len(x)), pad)
    starts = range(0, len(padded) - kernel + 1, stride)
    counts = [kernel if counts_pads else there[at : at + kernel].sum() for at in starts]
    return [padded[at : at + kernel].sum() / count for at, count in zip(starts, counts, strict=True)]


@pytest.mark.parametrize("counts_pads", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "pad"), [(2, 2, (0, 0)), (3, 1, (1, 1)), (4, 3, (2, 1))])
def test_averages_are_a_sparse_matrix(rng, kernel, stride, pad, counts_pads):
    x = rng.standard_normal((2, 9))
    matrix, shape = pooling(x.shape, [kernel], [stride], [pad], counts_pads=counts_pads)
    expected = [averages(channel, kernel, stride, pad, counts_pads) for channel in x]
    np.testing.assert_allclose((x.ravel() @ matrix).reshape(shape), expected)


def test_averages_of_two_axes_are_those_of_one_after_the_other(rng):
    x = rng.standard_normal((3, 6, 8))
    matrix, shape = pooling(x.shape, [2, 4], [2, 2], [(0, 0), (0, 0)])
    expected = [[np.mean(x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 4], axis=(1, 2)) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose((x.ravel() @ matrix).reshape(shape), np.moveaxis(expected, 2, 0))
    matrix, shape = adaptive_pooling(x.shape, [1, None])
    np.testing.assert_allclose((x.ravel() @ matrix).reshape(shape), x.mean(axis=1, keepdims=True))


def test_a_last_window_that_would_begin_in_the_padding_is_none():
    _, shape = pooling((1, 3), [2], [2], [(1, 1)], rounds_up=True)
    assert shape == (1, 2)
    _, shape = pooling((1, 4), [2], [3], [(0, 0)], rounds_up=True)
    assert shape == (1, 2)
    matrix, shape = pooling((1, 2), [3], [3], [(0, 0)], rounds_up=True)  # larger than all there is
    assert shape == (1, 1)
    assert matrix.toarray().tolist() == [[0.5], [0.5]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: convolution((2, 3, 3), np.ones((1, 1, 2, 2)), (1, 1), ((0, 0),) * 2, (1, 1)), "on values of shape"),
        (lambda: convolution((1, 3), np.ones((1, 1, 4)), (1,), ((0, 0),), (1,)), "of 4 values where there are 3"),
        (
            lambda: convolution((64, 9999, 9999), np.ones((64, 64, 3, 3)), (1, 1), ((1, 1),) * 2, (1, 1)),
            r"of 3,685,662,756,864 edges, which take 219,\d+.\d GiB to write out, but .* GiB are available",
        ),
        (lambda: pooling((1, 3), [2, 2], [1, 1], [(0, 0)] * 2), "windows of shape"),
        (lambda: pooling((1, 3), [2], [1], [(2, 0)]), "nothing but padding"),
        (lambda: adaptive_pooling((1, 3), [1, 1]), "to the shape"),
    ],
)
def test_maps_that_do_not_fit_are_refused(make, message):
    with pytest.raises(UnsupportedError, match=message):
        make()


# Layers in the making.


def test_what_is_linear_makes_no_layer_of_its_own(drafts, rng):
    x, w, b = drafts.input((2, 3)), rng.standard_normal((6, 4)), rng.standard_normal(4)
    value = operators.dense(drafts, operators.flattened(operators.transposed(x, [0, 2, 1])), w, b)
    value = operators.subtracted(1.0, operators.multiplied(value, np.arange(1, 5)))
    rows = rng.standard_normal((7, 2, 3)).astype(np.float32)
    expected = 1 - (rows.transpose(0, 2, 1).reshape(7, 6) @ w + b) * np.arange(1, 5)
    network = check(drafts, drafts.activated(value, "tanh"), rows, np.tanh(expected), layers=1)
    assert network.nnz == 24


def test_a_residual_addition_and_a_concatenation_are_layers_that_read_several(drafts, rng):
    x, w, v = drafts.input((4,)), rng.standard_normal((4, 4)), rng.standard_normal((8, 3))
    first = drafts.activated(operators.dense(drafts, x, w), "relu")
    second = drafts.activated(operators.added(operators.dense(drafts, first, w), x), "relu")
    both = operators.concatenated([first, second], 1)
    rows = rng.standard_normal((5, 4)).astype(np.float32)
    a = np.maximum(rows @ w, 0)
    b = np.maximum(a @ w + rows, 0)
    network = check(drafts, operators.dense(drafts, both, v), rows, np.hstack([a, b]) @ v, layers=3)
    assert [network.sources(k) for k in range(3)] == [(NETWORK_INPUT,), (0, NETWORK_INPUT), (0, 1)]


def test_a_source_that_is_read_twice_is_read_once(drafts, rng):
    x = drafts.input((4,))
    h = drafts.activated(operators.multiplied(x, 2.0), "relu")
    value = operators.concatenated([h, operators.added(h, h)], 1)
    rows = rng.standard_normal((5, 4)).astype(np.float32)
    expected = np.maximum(2 * rows, 0)
    network = check(drafts, value, rows, np.hstack([expected, 2 * expected]), layers=2)
    assert network[1].shape == (4, 8)


def test_layers_that_lead_nowhere_are_left_out(drafts, rng):
    x = drafts.input((4,))
    h = drafts.activated(x, "relu")
    drafts.activated(h, "softmax")
    drafts.activated(x, "sigmoid")
    rows = rng.standard_normal((5, 4)).astype(np.float32)
    check(drafts, drafts.activated(h, "tanh"), rows, np.tanh(np.maximum(rows, 0)), layers=2)


@pytest.mark.parametrize("before", [None, "relu", "sigmoid", "tanh"])
@pytest.mark.parametrize(
    ("low", "high"), [(0, 0.4), (-0.3, 0.4), (0.1, inf), (-inf, 0.4), (-inf, inf), (-2, -0.1), (0, inf)]
)
def test_clips(drafts, rng, before, low, high):
    rows = rng.standard_normal((9, 4)).astype(np.float32)
    value = drafts.input((4,))
    functions = {"relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}
    value, expected = (value, rows) if before is None else (drafts.activated(value, before), functions[before](rows))
    check(drafts, drafts.clipped(value, low, high), rows, np.clip(expected, low, high))


def test_products_are_multiplied_where_that_has_not_more_edges(drafts, rng):
    x = drafts.input((30,))
    narrow = operators.dense(drafts, operators.dense(drafts, x, rng.random((30, 2))), rng.random((2, 30)))
    assert [layer.nnz for layer in drafts.network(narrow)] == [60, 60]
    scaled = operators.multiplied(operators.dense(drafts, x, rng.random((30, 2))), 3.0)
    assert [layer.nnz for layer in drafts.network(scaled)] == [60]


def test_softmax_is_of_the_last_layer_only(drafts):
    drafts.place = "Softmax probabilities"
    inside = operators.softmax(drafts, drafts.input((4,)), -1)
    assert drafts.network(inside)[-1].activation == "softmax"
    with pytest.raises(
        NetworkError, match="Softmax probabilities: softmax is read by other layers, expected it at the"
    ):
        drafts.network(operators.multiplied(inside, 2.0))


def test_shapes(drafts, rng):
    rows = rng.standard_normal((5, 2, 3)).astype(np.float32)
    x = drafts.input((2, 3))
    cases = [
        (operators.padded(x, [(1, 0), (-1, 2)]), np.pad(rows[:, :, 1:], [(0, 0), (1, 0), (0, 2)])),
        (operators.averaged_over(drafts, x, [2], keeps=False), rows.mean(2)),
        (operators.averaged_over(drafts, x, [1, -1], keeps=True), rows.mean((1, 2), keepdims=True)),
        (operators.added(operators.reshaped(x, [-1, 1, 6]), np.zeros((4, 1))), np.repeat(rows.reshape(5, 1, 6), 4, 1)),
        (operators.concatenated([x, operators.reshaped(x, [-1, 2, 3])], 2), np.concatenate([rows, rows], 2)),
        (operators.normalised(drafts, x, [1, 2], [4, 9], None, [5, 6], 0.0), _normalised(rows)),
    ]
    for value, expected in cases:
        assert value.shape == expected.shape[1:]
        check(drafts, value, rows, expected)


def _normalised(rows):
    mean, deviation, bias = (np.array(numbers)[:, None] for numbers in ([1, 2], [2, 3], [5, 6]))
    return (rows - mean) / deviation + bias


# Steps.


def step(kind, reads, writes, run=None, *, known=True, looks=False):
    return Step(kind, f"{kind.lower()}-{writes[0]}", reads, writes, known, run or (lambda read: read), looks)


def fails(text):
    def run(read):
        raise UnsupportedError(text)

    return run


def test_steps_are_run_in_order(drafts, rng):
    steps = [
        step("Scale", ["x"], ["a"], lambda read: [operators.multiplied(read[0], 2.0)]),
        step("Add", ["a", "one"], ["b"], lambda read: [operators.added(*read)]),
    ]
    value = translate(steps, {"x": drafts.input((3,)), "one": 1.0}, drafts, "b")
    rows = rng.standard_normal((4, 3)).astype(np.float32)
    check(drafts, value, rows, 2 * rows + 1)


def test_what_several_read_is_computed_once(drafts, rng):
    w = rng.standard_normal((5, 5))
    steps = [
        step("Product", ["x"], ["h"], lambda read: [operators.dense(drafts, read[0], w)]),
        step("Shape", ["h"], ["s"], lambda read: [read[0].shape], looks=True),
        step("Relu", ["h"], ["a"], lambda read: [drafts.activated(read[0], "relu")]),
        step("Tanh", ["h"], ["b"], lambda read: [drafts.activated(read[0], "tanh")]),
        step("Add", ["a", "b"], ["y"], lambda read: [operators.added(*read)]),
    ]
    for unread, nnz in ((0, 25 + 4 * 5), (3, 25)):
        inner = steps[:3] + steps[3:] if not unread else steps[:3]
        value = translate(inner, {"x": drafts.input((5,))}, drafts, "a" if unread else "y")
        assert drafts.network(value).nnz == nnz


def test_all_faults_are_found(drafts):
    """What follows a fault is looked at, too; what follows only from the shapes of what is lost is not blamed."""
    steps = [
        step("Strange", ["x"], ["a"], known=False),
        step("Shape", ["a"], ["s"], looks=True),
        step("Gather", ["s"], ["t"], known=False),
        step("Reshape", ["a", "t"], ["b"]),
        step("Strange", ["b"], ["c"], known=False),
        step("Odd", ["x"], ["d"], fails("with an option")),
        step("Add", ["c", "d"], ["e"]),
        step("Lost", ["nothing"], ["f"]),
    ]
    message = (
        r"^model: cannot translate Strange \(2: strange-a, strange-c\); Odd with an option \(1: odd-d\); "
        r"Lost, which reads 'nothing' before anything has made it \(1: lost-f\)$"
    )
    with pytest.raises(NetworkError, match=message):
        translate(steps, {"x": drafts.input((3,))}, drafts, "e")


def test_an_output_must_depend_on_the_input(drafts):
    for output in ("c", "z"):
        with pytest.raises(NetworkError, match=f"model: its output '{output}' does not depend on its input"):
            translate([], {"x": drafts.input((3,)), "c": np.ones(3)}, drafts, output)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda d, x: operators.dense(d, x, x), "anything else than values by constant weights"),
        (lambda d, x: operators.dense(d, x, scipy.sparse.eye_array(2, format="csc")), r"by weights of shape \(2, 2\)"),
        (lambda d, x: operators.multiplied(x, x), "two values that both depend"),
        (lambda d, x: operators.divided(x, [1.0, 0, 1]), "constants that are not 0"),
        (lambda d, x: operators.added(x, np.ones((2, 2, 3))), r"samples of shape \(2, 3\) and constants of shape"),
        (lambda d, x: operators.added(x, d.input((3,))), r"samples of shape \(2, 3\) and samples of shape \(3,\)"),
        (lambda d, x: operators.added(x, [0, inf, 0]), "with a constant of inf, expected finite numbers"),
        (lambda d, x: operators.dense(d, x, np.full((3, 1), -inf)), "with a weight of -inf, expected finite numbers"),
        (lambda d, x: operators.dense(d, x, np.ones((3, 1)), [nan]), "with a bias of nan, expected finite numbers"),
        (lambda d, x: operators.normalised(d, x, *([np.full(2, -1.0)] * 4), 0), "with a weight of nan"),
        (lambda d, x: operators.reshaped(x, [6, operators.SAMPLES]), "expected samples x 6 values"),
        (lambda d, x: operators.concatenated([x, x], 0), "along axis 0"),
        (lambda d, x: operators.concatenated([x, 1.0], 1), "with a constant"),
        (lambda d, x: operators.transposed(x, [1, 0, 2]), "where samples would not be first"),
        (lambda d, x: operators.reshaped(x, [-1, 2]), r"of shape \(2, 3\) to \(-1, 2\), expected samples x 6 values"),
        (lambda d, x: operators.reshaped(x, [6]), "expected samples x 6 values"),
        (lambda d, x: operators.softmax(d, x, 1), "expected all values of a sample"),
        (lambda d, x: operators.leaky_relu(d, x, 1.5), "expected one from 0 to 1"),
        (lambda d, x: operators.normalised(d, x, [1], [1], None, None, 0), "one for each of 2 channels"),
        (lambda d, x: d.clipped(x, -inf, 0), "upper bound 0, and no lower one"),
        (lambda d, x: d.clipped(x, 1, 1), "with the bounds 1 and 1"),
    ],
)
def test_operators_that_do_not_fit_are_refused(drafts, make, message):
    with pytest.raises(UnsupportedError, match=message):
        make(drafts, drafts.input((2, 3)))
