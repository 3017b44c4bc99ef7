"""The layers that kernels are timed on, and their inputs. Everything is drawn from seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.network import Layer, Network, index_dtype
from taskgraph_dnn.reference import reference_outputs
from taskgraph_dnn.synthetic import radixnet

#: Samples of a case: what two tasks have passing through at a time, so that inputs lie where the layer before has left
#: them. No more than this many bytes of them, but at least some columns for each thread.
MOST_SAMPLES, BATCH_NBYTES, LEAST_COLUMNS = 512, 2**23, 64

#: Edges of an output in the patterns of the Graph Challenge.
EDGES = 32

#: Samples whose answers are compared with the right ones.
_CHECKED = 8


@dataclass(frozen=True)
class Case:
    """A layer and its inputs.

    Attributes:
        name: what it is called.
        neurons: inputs of the layer, and outputs.
        make: draws the layer.
        density: which part of the inputs is not zero. Below 1 they are the rows of a network's input, CSR; else
            activations, as a layer before has left them.
    """

    name: str
    neurons: int
    make: Callable[[int, np.random.Generator], Layer]
    density: float = 1.0

    @property
    def first(self) -> bool:
        """Whether the layer reads a network's input."""
        return self.density < 1

    def samples(self, threads: int, nbytes: int = BATCH_NBYTES) -> int:
        """Return so many samples as fill so many bytes, within limits."""
        least = LEAST_COLUMNS * threads
        return max(least, min(MOST_SAMPLES, nbytes // (4 * self.neurons)))

    def rows(self, samples: int, rng: np.random.Generator) -> Any:
        """Return inputs, samples x neurons, float32: CSR, or an array of numbers from 0 to 1."""
        if self.first:
            shape = (samples, self.neurons)
            return scipy.sparse.random_array(shape, density=self.density, format="csr", dtype=np.float32, rng=rng)
        return rng.random((samples, self.neurons), dtype=np.float32)

    def problem(self, threads: int, nbytes: int = BATCH_NBYTES) -> "Problem":
        """Draw the layer and its inputs."""
        rng = np.random.default_rng(0)
        layer = self.make(self.neurons, rng)
        samples = self.samples(threads, nbytes)
        return Problem(layer, self.rows(samples, rng), np.sort(rng.choice(samples, _CHECKED, replace=False)))


@dataclass(frozen=True, eq=False)
class Problem:
    """What contenders compute.

    Attributes:
        layer: the layer.
        rows: its inputs, samples x neurons, CSR or an array.
        checked: the samples whose answers are compared.
    """

    layer: Layer
    rows: Any
    checked: NDArray[np.int64]

    @property
    def samples(self) -> int:
        """How many samples there are."""
        return int(self.rows.shape[0])

    @property
    def multiply_adds(self) -> int:
        """Those of the layer's edges, whether inputs are zero or not."""
        return self.layer.nnz * self.samples

    @cached_property
    def outputs(self) -> NDArray[np.float64]:
        """Right outputs of the samples to compare."""
        return reference_outputs(Network([self.layer]), self.rows[self.checked])

    @cached_property
    def sums(self) -> NDArray[np.float64]:
        """Right sums of the samples to compare, without bias and activation."""
        plain = Layer(self.layer.weights, activation="identity")
        return reference_outputs(Network([plain]), self.rows[self.checked])


def random_layer(neurons: int, rng: np.random.Generator) -> Layer:
    """Return a layer of 32 edges for each output, from inputs that are drawn one by one."""
    inputs = _distinct(rng, neurons, EDGES, neurons)
    return _weighted(inputs.ravel(), np.arange(neurons + 1) * EDGES, neurons, rng)


def _distinct(rng: np.random.Generator, rows: int, count: int, below: int) -> NDArray[np.int64]:
    """Return so many different numbers in each row, ascending."""
    drawn = np.sort(rng.integers(0, below, (rows, count)), axis=1)
    again = np.zeros(drawn.shape, np.bool_)
    while True:
        again[:, 1:] = drawn[:, 1:] == drawn[:, :-1]
        if not again.any():
            return drawn
        drawn[again] = rng.integers(0, below, np.count_nonzero(again))
        drawn.sort(axis=1)


def radix_layer(neurons: int, rng: np.random.Generator) -> Layer:
    """Return a layer of RadiX-Net's second block, whose inputs are permuted, with random weights."""
    pattern = radixnet(neurons, (neurons // 16).bit_length() + 3)[-1].weights
    return _weighted(pattern.indices, pattern.indptr, neurons, rng)


def radix_first_layer(neurons: int, rng: np.random.Generator) -> Layer:
    """Return RadiX-Net's first layer with random weights."""
    pattern = radixnet(neurons, 1)[0].weights
    return _weighted(pattern.indices, pattern.indptr, neurons, rng)


def scattered_layer(neurons: int, rng: np.random.Generator, *, sparsity: int) -> Layer:
    """Return a layer with edges at random places; `sparsity` percent of all places have none."""
    shape = (neurons, neurons)
    density = 1 - sparsity / 100
    pattern = scipy.sparse.random_array(shape, density=density, format="csc", dtype=np.float32, rng=rng)
    pattern.sort_indices()
    return _weighted(pattern.indices, pattern.indptr, neurons, rng)


def _weighted(indices: NDArray[Any], indptr: NDArray[Any], neurons: int, rng: np.random.Generator) -> Layer:
    """Return the layer of this pattern, with normal weights and biases, and sums of about 1."""
    dtype = index_dtype((neurons, neurons), len(indices))
    weights = rng.standard_normal(len(indices), dtype=np.float32) / np.float32(np.sqrt(len(indices) / neurons))
    arrays = weights, indices.astype(dtype), indptr.astype(dtype)
    return Layer(
        scipy.sparse.csc_array(arrays, shape=(neurons, neurons)),
        bias=rng.standard_normal(neurons, dtype=np.float32),
    )


_SIZES = (1024, 4096, 16384, 65536)

CASES = (
    *(Case(f"random-{neurons}", neurons, random_layer) for neurons in _SIZES),
    *(Case(f"radix-{neurons}", neurons, radix_layer) for neurons in _SIZES),
    *(
        Case(f"sparse{sparsity}-{neurons}", neurons, partial(scattered_layer, sparsity=sparsity))
        for neurons in _SIZES[:2]
        for sparsity in (0, 25, 50, 75, 90, 95, 99)
    ),
    *(Case(f"push-{neurons}", neurons, radix_first_layer, density=0.1) for neurons in (_SIZES[0], _SIZES[-1])),
)
