"""Digit images: their form, their seed, and how they fare in a network."""

import sys

import numpy as np
import pytest

from taskgraph_dnn.errors import InputError, MissingDependencyError
from taskgraph_dnn.reference import reference_outputs
from taskgraph_dnn.synthetic import digit_images, digits, radixnet

pytest.importorskip("sklearn", reason="digit images come with scikit-learn")


def same(one, other):
    return (
        one.shape == other.shape
        and np.array_equal(one.indptr, other.indptr)
        and np.array_equal(one.indices, other.indices)
        and np.array_equal(one.data, other.data)
    )


@pytest.mark.parametrize("neurons", [64, 100, 784, 1024, 4096])
def test_form(neurons):
    images = digit_images(30, neurons)
    images.check_format(full_check=True)
    assert images.format == "csr"
    assert images.shape == (30, neurons)
    assert images.dtype == np.float32
    assert images.indices.dtype == images.indptr.dtype == np.int32
    assert (images.data == 1.0).all()
    assert images.has_sorted_indices
    assert all(np.all(np.diff(images[[row]].indices) > 0) for row in range(30))
    assert images.read_seconds > 0


@pytest.mark.parametrize(("neurons", "samples"), [(64, 5000), (1024, 5000), (4096, 1000), (16384, 300), (65536, 200)])
def test_a_tenth_of_the_pixels_is_set_at_every_size(neurons, samples):
    images = digit_images(samples, neurons)
    assert 0.095 < images.nnz / (samples * neurons) < 0.115


def test_no_image_is_empty_and_nearly_all_differ():
    images = digit_images(5000, 1024)
    assert np.diff(images.indptr).min() > 0
    packed = np.packbits(images.toarray() > 0, axis=1)
    assert len(np.unique(packed, axis=0)) > 4990


@pytest.mark.parametrize("batch_pixels", [1, 64 * 7, 64 * 100, 2**20])
def test_few_samples_are_the_head_of_many_however_they_are_batched(monkeypatch, batch_pixels):
    many = digit_images(200, 64, seed=5)
    monkeypatch.setattr(digits, "BATCH_PIXELS", batch_pixels)
    for samples in (1, 100, 199):
        assert same(digit_images(samples, 64, seed=5), many[:samples])


def test_seed():
    assert same(digit_images(50, 256, seed=1), digit_images(50, 256, seed=1))
    assert not same(digit_images(50, 256, seed=1), digit_images(50, 256, seed=2))


def test_the_same_digit_at_every_size():
    small, large = (digit_images(200, side**2, seed=4).toarray().reshape(200, side, side) for side in (32, 64))
    enlarged = small.repeat(2, axis=1).repeat(2, axis=2)
    assert np.mean(enlarged != large) < 0.05


def test_sums_are_exact_in_float32():
    draws = np.random.default_rng(0).random((50, 5))
    known = digits._digits()
    images = digits._images(known, 32, draws)
    exact = digits._images(known.astype(np.float64), 32, draws)
    assert images.dtype == np.float32
    assert exact.dtype == np.float64
    np.testing.assert_array_equal(images, exact)


def test_an_unmoved_digit_of_full_size_is_the_digit():
    draws_nothing = digits._enlarging(8, np.ones(1), np.zeros(1))
    np.testing.assert_array_equal(draws_nothing[0], np.eye(8))


def test_no_samples():
    images = digit_images(0, 1024)
    assert images.shape == (0, 1024)
    assert images.nnz == 0
    assert images.dtype == np.float32
    assert images.read_seconds > 0


def test_reports_progress(monkeypatch):
    monkeypatch.setattr(digits, "BATCH_PIXELS", 4 * 64)
    calls = []
    digit_images(10, 64, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(4, 10), (8, 10), (10, 10)]


@pytest.mark.parametrize("neurons", [65, 1000])
def test_refuses_sizes_that_are_no_square(neurons):
    with pytest.raises(InputError, match=rf"square number of pixels, got {neurons}$"):
        digit_images(1, neurons)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 64), "samples is -1, expected a whole number of at least 0"),
        ((2.5, 64), "samples is 2.5, expected a whole number of at least 0"),
        (("2", 64), "samples is '2', expected a whole number"),
        *(
            ((1, neurons), f"neurons is {neurons}, expected a whole number of at least 64")
            for neurons in (-64, 0, 1, 49, 63)
        ),
        ((1, 64.0), "neurons is 64.0, expected a whole number of at least 64"),
        ((1, 64, -2), "seed is -2, expected a whole number of at least 0"),
        ((1, 64, 1.5), "seed is 1.5, expected a whole number"),
    ],
)
def test_refuses_numbers_out_of_range(arguments, message):
    samples, neurons, *seed = arguments
    with pytest.raises(InputError) as caught:
        digit_images(samples, neurons, **({"seed": seed[0]} if seed else {}))
    assert message in str(caught.value)


def test_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(MissingDependencyError, match=r"scikit-learn.*pip install 'taskgraph-dnn\[digits\]'"):
        digit_images(1, 64)


def test_samples_die_as_the_official_ones_do():
    network, alive = radixnet(1024, 120), digit_images(2000, 1024)
    shares = []
    for layer in (1, 6, 120):
        outputs = reference_outputs(network.head(layer), alive)
        shares.append(outputs.any(axis=1).mean())
    assert 0.85 < shares[0] < 1
    assert 0.03 < shares[1] < 0.15
    assert 0.01 < shares[2] < 0.06
