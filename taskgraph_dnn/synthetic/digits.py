"""Handwritten digits as network inputs, in the manner of the Graph Challenge's images.

The challenge enlarges MNIST's digits and keeps each pixel as 0 or 1. Here the digits are the 1,797 real ones of 8 x 8
pixels that come with scikit-learn: each sample is one of them, drawn at random, at a random size and place in its
frame. Enlarging is linear, so an image is

    rows @ digit @ columns.T

where `rows` (side x 8) and `columns` weigh the digit's rows and columns for each row and column of the frame. As in
the challenge, images lie on their side (a digit's columns are the frame's rows): it decides which pixels meet in one
neuron, and with it how many samples stay alive.
"""

import math
import time
from collections.abc import Callable

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.arguments import whole_number
from taskgraph_dnn.errors import InputError, MissingDependencyError
from taskgraph_dnn.network import index_dtype

#: Pixels (float32) of one batch: 4 MiB, which stays in a cache.
BATCH_PIXELS = 2**20
#: Pixels along an edge of a digit.
DIGIT_SIDE = 8

# Fitted at 32 x 32 to the official images: 10.4 % of all pixels are set, and in a network of 1,024 neurons 98, 63, 37,
# 20, 10 and 6 % of the samples are alive after layers 1 to 6, and 2.4 % after 120 (official: 92, 66, 35, 16, 8, 5, and
# 3 %). Of 60,000 images at most one or two equal another.
SMALLEST, LARGEST = 0.36, 0.9  # a digit's height as a share of the frame's
STRETCH = 0.15  # of the width, at most, either way
SHIFT = 0.12  # at most, either way, as a share of the frame
THRESHOLD = 0.611  # of the darkest ink


def digit_images(
    samples: int,
    neurons: int,
    *,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> scipy.sparse.csr_array:
    """Return images of handwritten digits, samples x neurons, float32, 1 where there is ink.

    Sample i depends on `seed`, i and `neurons` alone: few samples are the head of many. The result has an attribute
    `read_seconds`, what making it took. Images are made in batches of a few MiB; beyond the result, only its column
    numbers are held once more.

    Args:
        samples: number of images.
        neurons: pixels of an image, a square number of at least 64.
        seed: draws digits, sizes and places; at least 0.
        progress: called as `progress(made, samples)` after each batch.

    Raises:
        InputError: one of the numbers is out of range.
        MissingDependencyError: scikit-learn is not installed.
    """
    started = time.perf_counter()
    side = _side(samples, neurons, seed)
    digits = _digits()
    rng = np.random.default_rng(seed)
    batch = max(1, BATCH_PIXELS // neurons)
    counts, columns = [np.zeros(1, dtype=np.int64)], [np.zeros(0, dtype=np.int32)]
    for first in range(0, samples, batch):
        stop = min(first + batch, samples)
        inked = _images(digits, side, rng.random((stop - first, 5))).reshape(-1, neurons) > THRESHOLD
        counts.append(np.count_nonzero(inked, axis=1))
        columns.append((np.flatnonzero(inked) % neurons).astype(np.int32))
        if progress is not None:
            progress(stop, samples)
    rows = _ones(np.concatenate(counts), np.concatenate(columns), (samples, neurons))
    rows.read_seconds = time.perf_counter() - started
    return rows


def _side(samples: int, neurons: int, seed: int) -> int:
    whole_number("samples", samples, 0, InputError)
    whole_number("neurons", neurons, DIGIT_SIDE**2, InputError)
    whole_number("seed", seed, 0, InputError)
    side = math.isqrt(max(neurons, 0))
    if side**2 != neurons:
        raise InputError(f"a digit image has a square number of pixels, got {neurons}")
    return side


def _digits() -> NDArray[np.float32]:
    """Return the digits on their side, digits x 8 x 8, 0 to 1."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError.of("making digit images", "scikit-learn", "digits") from error
    images = load_digits().images
    return np.ascontiguousarray(images.transpose(0, 2, 1) / images.max(), dtype=np.float32)


def _images(digits: NDArray[np.float32], side: int, draws: NDArray[np.float64]) -> NDArray[np.floating]:
    """Return one image for each row of five draws from 0 to 1: digit, height, place along each axis, and slimness."""
    chosen = digits[(draws[:, 0] * len(digits)).astype(np.intp)]
    height = SMALLEST + (LARGEST - SMALLEST) * draws[:, 1]
    width = height * (1 + STRETCH * (2 * draws[:, 4] - 1))
    rows = _enlarging(side, width, SHIFT * (2 * draws[:, 2] - 1))
    columns = _enlarging(side, height, SHIFT * (2 * draws[:, 3] - 1))
    return rows @ chosen @ columns.transpose(0, 2, 1)


def _enlarging(side: int, size: NDArray[np.float64], shift: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the weights of a digit's 8 pixels for each of `side` pixels of a frame, samples x side x 8.

    Args:
        side: pixels along the frame.
        size: of the digit, as a share of the frame; one number for each sample.
        shift: of the digit's centre from the frame's, as a share of the frame; one number for each sample.
    """
    frame = (np.arange(side) + 0.5) / side - 0.5  # pixel centres, from the frame's centre
    places = (frame - shift[:, None]) * (DIGIT_SIDE / size[:, None]) + (DIGIT_SIDE - 1) / 2
    weights = _cubic(np.subtract.outer(places, np.arange(DIGIT_SIDE)).astype(np.float32))
    # Digits are multiples of 1/16. With weights that are multiples of 1/512 all later sums are exact in float32, in
    # whatever order a BLAS adds them, and an image is the same on every machine.
    step = np.float32(1 / 512)
    return (weights / step).round() * step


def _cubic(distance: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weight of a pixel at this distance (in pixels) in cubic convolution (Keys 1981, a = -1/2)."""
    d = np.abs(distance)
    near = ((1.5 * d - 2.5) * d) * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0))


def _ones(counts: NDArray[np.int64], columns: NDArray[np.int32], shape: tuple[int, int]) -> scipy.sparse.csr_array:
    """Return the CSR array with a 1 in these columns, the first `counts[1]` of them in row 0 and so on."""
    dtype = index_dtype(shape, columns.size)
    data = np.ones(columns.size, dtype=np.float32)
    indptr = np.cumsum(counts, dtype=np.int64).astype(dtype)
    rows = scipy.sparse.csr_array((data, columns.astype(dtype, copy=False), indptr), shape=shape)
    rows.has_canonical_format = True
    return rows
