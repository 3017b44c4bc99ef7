import numpy as np
import pytest
import scipy.sparse

import taskgraph_dnn as tg
from taskgraph_dnn.checks import check_result
from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.result import Result


@pytest.fixture
def network():
    return tg.radixnet(neurons=64, layers=8, seed=3)


@pytest.fixture
def images():
    return tg.digit_images(samples=50, neurons=64, seed=3)


@pytest.fixture
def result(network, images):
    return tg.infer(network, images).compute()


def answering(result, outputs):
    """The result with other outputs: nothing folded, and its own categories."""
    return Result(outputs, np.arange(outputs.shape[0]), None, result.seconds, result.plan, result.events)


def spoiled(result, sample):
    outputs = result.outputs.tolil()
    outputs[sample, 5] += 1
    return answering(result, outputs.tocsr())


def test_a_right_answer_agrees(result, network, images):
    checks = check_result(result, network, images, truth=result.categories, samples=50, label="numba")
    assert [check.passed for check in checks] == [True, True]
    assert [check.name for check in checks] == ["numba: categories", "numba: float64 reference"]
    assert "50 samples, largest relative difference" in checks[1].detail


def test_nothing_asked_nothing_checked(result, network, images):
    assert check_result(result, network, images) == []


def test_a_wrong_output_is_found(result, network, images):
    (check,) = check_result(spoiled(result, 17), network, images, samples=50)
    assert not check.passed


def test_a_small_difference_is_found(result, network, images):
    outputs = result.outputs.copy()
    outputs.data[:] = outputs.data * np.float32(1.002) + np.float32(0.002)
    (check,) = check_result(answering(result, outputs), network, images, samples=50)
    assert not check.passed


def test_an_output_that_is_zero_in_one_only_is_found(result, network, images):
    outputs = result.outputs.tolil()
    dead = np.setdiff1d(np.arange(50), result.categories)[0]
    outputs[dead, 0] = 1e-6  # far below the tolerance, but it makes a category
    (check,) = check_result(answering(result, outputs.tocsr()), network, images, samples=50)
    assert not check.passed
    assert "1 are zero in one only" in check.detail


def test_nan_is_a_difference(result, network, images):
    outputs = result.outputs.copy()
    outputs.data[0] = np.nan
    (check,) = check_result(answering(result, outputs), network, images, samples=50)
    assert not check.passed


def test_wrong_categories_are_counted_and_named(result, network, images):
    dead = np.setdiff1d(np.arange(50), result.categories)
    assert dead.size
    assert result.categories.size
    truth = np.sort(np.append(result.categories[1:], dead[0]))
    (check,) = check_result(result, network, images, truth=truth)
    assert not check.passed
    assert f"1 are missing ({dead[0]})" in check.detail
    assert f"1 are wrong ({result.categories[0]})" in check.detail


def test_truth_of_a_larger_batch(result, network, images):
    (check,) = check_result(result, network, images, truth=np.append(result.categories, [50, 51]))
    assert check.passed
    assert "the others are beyond the 50 samples" in check.detail


def test_half_of_the_drawn_samples_have_an_output():
    network = tg.Network([tg.Layer(np.eye(2), bias=-1)])
    rows = scipy.sparse.csr_array((1000, 2), dtype=np.float32).tolil()
    rows[[3, 500, 900], 0] = 2
    result = tg.infer(network, rows.tocsr()).compute()
    wrong = answering(result, result.outputs * 2)
    (check,) = check_result(wrong, network, rows.tocsr(), samples=6)
    assert not check.passed
    assert "6 samples" in check.detail


def test_a_negative_number_of_samples_is_refused(result, network, images):
    with pytest.raises(PlanError, match="check is -1, expected"):
        check_result(result, network, images, samples=-1)
