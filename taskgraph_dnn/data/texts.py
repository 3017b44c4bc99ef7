"""Samples in the text files that networks come in, the Graph Challenge's and Matrix Market's: read as a whole."""

from typing import Any

from taskgraph_dnn.data.files import local, look
from taskgraph_dnn.data.stored import Format, Group, StoredFile, Wanted
from taskgraph_dnn.errors import InputError
from taskgraph_dnn.io import read_challenge_images, read_matrix_market_images


def _look_challenge(url: str, wanted: Wanted) -> StoredFile:
    if wanted.inputs is None:
        raise InputError(f"{url} does not say how wide its samples are: give the number of inputs")
    return _looked(url, wanted, _challenge(url, wanted.inputs))


def _look_matrix_market(url: str, wanted: Wanted) -> StoredFile:
    return _looked(url, wanted, _matrix_market(url))


def _looked(url: str, wanted: Wanted, rows: Any) -> StoredFile:
    if wanted.columns is not None:
        raise InputError(f"{url}: inputs have numbers and no names, but {', '.join(wanted.columns)} are wanted")
    return StoredFile(url, look(url), (Group(rows.shape[0], 0),), (), rows.shape[1])


def _challenge(url: str, inputs: int) -> Any:
    with local(url) as path:
        return read_challenge_images(path, inputs)


def _matrix_market(url: str) -> Any:
    with local(url) as path:
        return read_matrix_market_images(path)


def _read_challenge(file: StoredFile, first: int, stop: int) -> Any:
    return _challenge(file.url, file.width)[first:stop]


def _read_matrix_market(file: StoredFile, first: int, stop: int) -> Any:
    return _matrix_market(file.url)[first:stop]


CHALLENGE = Format("Graph Challenge", (".tsv", ".tsv.gz"), _look_challenge, _read_challenge, whole=True)
MATRIX_MARKET = Format("Matrix Market", (".mtx", ".mtx.gz"), _look_matrix_market, _read_matrix_market, whole=True)
