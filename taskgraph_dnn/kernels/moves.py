"""Looking at samples in tiles, and moving them, which is what dropping and folding samples needs.

A sample's place is one number, tile x lanes + lane. Compiled where numba is there; plain numpy elsewhere.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from taskgraph_dnn.activations import Values, fill_tiles, to_csr

Places = NDArray[np.int64]

#: What looking at a value, moving one, and reading or writing one in a layer takes, in multiply-adds of a fast kernel;
#: and what the calls for looking at a block take, however small it is (measured).
LOOK, MOVE, PASS, CALLS = 8, 24, 3, 2e6

#: Lanes of the widest vectors that there are; tiles have so many, or several times as many.
_VECTOR_LANES = 16


def move(values: Values, places: Places, into: Values, at: int) -> None:
    """Copy samples to other tiles of equal neurons and lanes.

    Args:
        values: tiles x neurons x lanes.
        places: where the samples are, ascending.
        into: the other tiles; also these, if the samples do not move to later places.
        at: the place of the first of them; the others follow it.
    """
    lanes, size = values.shape[2], places.size
    if not size:
        return
    first = int(places[0])
    if places[-1] - first == size - 1 and not (first % lanes or at % lanes):
        tiles = -(-size // lanes)
        into[at // lanes : at // lanes + tiles] = values[first // lanes : first // lanes + tiles]
        return
    there = np.arange(at, at + size)
    if not compiles():
        into[there // lanes, :, there % lanes] = values[places // lanes, :, places % lanes]
        return
    from taskgraph_dnn.kernels.compiled_moves import squeezes

    name = "squeeze" if squeezes(values.dtype, lanes) else "move"
    _compiled(name, values.dtype)(values.reshape(-1), places, into.reshape(-1), at, values.shape[1], lanes)


def fill(values: Values, rows: Any) -> None:
    """Do what `fill_tiles` does, sooner."""
    _, neurons, lanes = values.shape
    quick = isinstance(rows, np.ndarray) and rows.dtype == values.dtype and rows.flags.c_contiguous
    if not (quick and compiles() and lanes % _VECTOR_LANES == 0):
        fill_tiles(values, rows)
        return
    if len(rows) % lanes:
        values[-1, :, len(rows) % lanes :] = 0
    _compiled("fill", values.dtype)(rows.reshape(-1), len(rows), neurons, lanes, values.reshape(-1))


class NonzeroRows(NamedTuple):
    """Rows of samples without what is zero: as of CSR, but how many values each row has in place of where it begins."""

    counts: NDArray[np.int64]
    indices: NDArray[Any]
    data: NDArray[Any]


def joined(blocks: Sequence[NonzeroRows], neurons: int, dtype: Any, *, take: bool = False) -> scipy.sparse.csr_array:
    """Return the rows of all blocks, one below the other.

    Args:
        blocks: the rows.
        neurons: how many columns they have.
        dtype: of their values.
        take: nobody else needs the blocks' arrays, so that those of a single block can be the result's, if they fill
            at least half of the room that was made for them.
    """
    counts = np.concatenate([np.zeros(1, np.int64), *(block.counts for block in blocks)])
    indptr = np.cumsum(counts)
    index = np.int32 if max(neurons, indptr[-1]) < 2**31 else np.int64
    if take and len(blocks) == 1 and _fills_its_room(blocks[0].data):
        data, indices = blocks[0].data, blocks[0].indices
    else:
        data = np.concatenate([np.empty(0, dtype), *(block.data for block in blocks)])
        indices = np.concatenate([np.empty(0, index), *(block.indices for block in blocks)])
    return scipy.sparse.csr_array(
        (data, indices.astype(index, copy=False), indptr.astype(index)), (len(counts) - 1, neurons)
    )


def _fills_its_room(values: NDArray[Any]) -> bool:
    return values.base is None or 2 * values.nbytes >= values.base.nbytes


def nonzero_rows(values: Values, places: Places) -> NonzeroRows:
    """Return what `to_csr` returns, sooner."""
    _, neurons, lanes = values.shape
    if not compiles() or places.size * neurons >= 2**31:
        rows = to_csr(values, places)
        return NonzeroRows(np.diff(rows.indptr).astype(np.int64), rows.indices, rows.data)
    # One more, because what is zero is written, too, and then written over.
    indices, data = np.empty(places.size * neurons + 1, np.int32), np.empty(places.size * neurons + 1, values.dtype)
    indptr = np.zeros(places.size + 1, np.int32)
    _compiled("pick", values.dtype)(values.reshape(-1), places, neurons, lanes, indptr, indices, data)
    return NonzeroRows(np.diff(indptr).astype(np.int64), indices[: indptr[-1]], data[: indptr[-1]])


def look(values: Values, samples: int, threshold: float) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return a hash of each sample's values, bit by bit, and whether all of them are at least `threshold`.

    Args:
        values: tiles x neurons x lanes.
        samples: how many there are, from place 0 on.
        threshold: nan is not at least this, whatever it is.
    """
    tiles, neurons, lanes = values.shape
    bits, odd, threshold = values.view(_word(values)), _odd(neurons), values.dtype.type(threshold)
    if values.itemsize == 8:
        bits = bits ^ (bits >> np.uint64(32))  # round numbers end in zeros, of which a product keeps all
    if not compiles():
        hashes = (bits.astype(np.uint64) * odd[:, None]).sum(axis=1)
        above = (values >= threshold).all(axis=1)
    else:
        hashes, above = np.zeros((tiles, lanes), np.uint64), np.ones((tiles, lanes), np.int32)
        _compiled("look", values.dtype)(bits, values, odd, threshold, hashes, above)
    return hashes.ravel()[:samples], above.ravel()[:samples].astype(np.bool_)


def equal(values: Values, places: Places, others: Values, other_places: Places) -> NDArray[np.bool_]:
    """Return, pair by pair, whether two samples have the same bits."""
    word, lanes = _word(values), values.shape[2]
    if not compiles():
        left = values.view(word)[places // lanes, :, places % lanes]
        right = others.view(word)[other_places // lanes, :, other_places % lanes]
        return np.asarray((left == right).all(axis=1))
    same = np.zeros(places.size, np.bool_)
    blocks = values.view(word).reshape(-1), others.view(word).reshape(-1)
    starts = _offsets(values, places), _offsets(others, other_places)
    _compiled("equal", values.dtype)(*blocks, *starts, values.shape[1], lanes, same)
    return same


def _offsets(values: Values, places: Places) -> NDArray[np.uint64]:
    """Return where the first values of samples stand, counted in values."""
    _, neurons, lanes = values.shape
    return np.asarray((places // lanes) * (neurons * lanes) + places % lanes, np.uint64)


def _word(values: Values) -> np.dtype[Any]:
    return np.dtype(f"u{values.itemsize}")


@cache
def _odd(neurons: int) -> NDArray[np.uint64]:
    """Return a factor for each neuron: multiplied with them and added up, few rows have equal sums."""
    drawn = np.random.default_rng(0).integers(2**63, size=neurons, dtype=np.uint64)
    return drawn | np.uint64(1)


@cache
def compiles() -> bool:
    """Return whether numba can be used."""
    try:
        import taskgraph_dnn.kernels.jit  # noqa: F401
    except Exception:  # numba is an extra; it may be there and not take the numpy beside it
        return False
    return True


def _compiled(name: str, value: np.dtype[Any]) -> Callable[..., Any]:
    from taskgraph_dnn.kernels.compiled_moves import function

    return function(name, value)
