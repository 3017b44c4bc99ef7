"""Input images and categories as the Graph Challenge publishes them: text files, numbered from 1."""

import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import ArrayLike, NDArray

from taskgraph_dnn.errors import FileError, InputError
from taskgraph_dnn.io.atomic import atomic_path
from taskgraph_dnn.io.streams import line_blocks, map_ahead, open_input, open_output
from taskgraph_dnn.io.tsv import Column, Table, Triples, format_tsv, parse_tsv, to_csr
from taskgraph_dnn.matrices import first_not_finite, float32_matrix, real_matrix

_MOST_SAMPLES = 2**31 - 1
#: A wrong digit in an image number must not make a matrix of 2,000,000,000 rows: beyond so many images, and so many
#: empty ones for each pixel, the reader asks.
_SURELY_MEANT, _MOST_EMPTY = 1_000_000, 100
_CATEGORY = re.compile(r"0*[0-9]{1,18}\r?\n")


def read_challenge_images(
    path: str | os.PathLike[str], neurons: int, samples: int | None = None
) -> scipy.sparse.csr_array:
    """Read input images: image, pixel and value a line, in a `.tsv` or `.tsv.gz` file.

    Args:
        path: the file.
        neurons: pixels an image, which is the inputs of the network.
        samples: how many images; None takes the highest image number in the file. Those without a pixel are empty rows.

    Returns:
        float32, samples x neurons; its attribute `read_seconds` says what reading took.

    Raises:
        FileError: the file is damaged, or an image or pixel is out of range; the message names file and line.
        InputError: `neurons` or `samples` is no positive number, or the file is empty and `samples` not given.
        MissingDependencyError: pyarrow is not installed.
    """
    start = time.perf_counter()
    path = Path(path)
    for name, value in (("neurons", neurons), ("samples", samples)):
        if value is not None and value < 1:
            raise InputError(f"{name} is {value}, expected at least 1")
    image = Column("image", _MOST_SAMPLES) if samples is None else Column("image", samples, "the samples asked for")
    table = Table(path.name, image, Column("pixel", neurons, "the network's inputs"))
    pixels = _read_triples(path, table)
    if samples is None:
        if not pixels.rows.size:
            raise InputError(f"{path} holds no image, so samples must say how many empty ones are meant")
        samples = int(pixels.rows.max()) + 1
        if samples > _SURELY_MEANT + _MOST_EMPTY * pixels.rows.size:
            raise FileError(
                f"{path.name}: image {samples} in a file of {pixels.rows.size} pixels is hardly meant; "
                f"if it is, ask for samples={samples}"
            )
    images = to_csr(pixels, (samples, neurons), table)
    images.read_seconds = time.perf_counter() - start
    return images


def _read_triples(path: Path, table: Table) -> Triples:
    def parse(numbered: tuple[int, bytes]) -> Triples:
        line, block = numbered
        return parse_tsv(block, table, line)

    parts = [parse_tsv(b"", table)]  # an empty file has no block
    with open_input(path) as stream:
        parts += map_ahead(parse, line_blocks(stream))
    return Triples(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


def write_challenge_images(images: Any, path: str | os.PathLike[str]) -> None:
    """Write images to a `.tsv` or `.tsv.gz` file; reading it gives the same values, bit for bit.

    The file does not say how many images there are: empty ones at the end are lost unless the reader is told.

    Args:
        images: samples x neurons, any scipy sparse matrix or array, or a 2-D array, of finite numbers.
        path: the file; it appears when all is written.

    Raises:
        InputError: they are no matrix of numbers that are finite in float32.
    """
    try:
        images = real_matrix(images)
    except ValueError as error:
        raise InputError(f"images {error}") from error
    csr = float32_matrix(images, scipy.sparse.csr_array).copy()
    csr.eliminate_zeros()
    wrong = first_not_finite(csr)
    if wrong is not None:
        sample, pixel, value = wrong
        raise InputError(f"pixel {pixel} of sample {sample} is {value}, expected a finite float32")
    rows = np.repeat(np.arange(csr.shape[0]), np.diff(csr.indptr))
    with atomic_path(path) as draft, open_output(draft) as stream:
        stream.writelines(format_tsv(Triples(rows, csr.indices, csr.data), short="%g", exact="%.9g"))


def read_categories(path: str | os.PathLike[str]) -> NDArray[np.int64]:
    """Read categories, the numbers of the samples that a network tells apart: one a line, from 1.

    Returns:
        int64, sorted, counted from 0.

    Raises:
        FileError: a line is no positive number, or one comes twice; the message names file and line.
    """
    path = Path(path)
    lines: dict[int, int] = {}
    with open_input(path) as stream:
        for line, content in enumerate(stream, start=1):
            text = content.decode(errors="replace")
            if not _CATEGORY.fullmatch(text) or int(text) < 1:
                raise FileError(f"{path.name} line {line}: {text[:40]!r}, expected a number from 1 and a newline")
            if int(text) in lines:
                first = lines[int(text)]
                raise FileError(f"{path.name} line {line}: {int(text)} is on line {first} already")
            lines[int(text)] = line
    return np.array(sorted(lines), dtype=np.int64) - 1


def write_categories(categories: ArrayLike, path: str | os.PathLike[str]) -> None:
    """Write categories, counted from 0, in the form that `read_categories` reads.

    Raises:
        InputError: they are no whole numbers from 0, or one comes twice.
    """
    numbers = np.asarray(categories)
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 0):
        raise InputError(f"categories are {numbers.dtype} numbers from {numbers.min()}, expected whole ones from 0")
    distinct = np.unique(numbers)
    if distinct.size != numbers.size:
        raise InputError(f"{numbers.size} categories, of which only {distinct.size} are different")
    with atomic_path(path) as draft, open_output(draft) as stream:
        stream.writelines(b"%d\n" % (number + 1) for number in distinct.tolist())
