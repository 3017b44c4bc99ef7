"""Arrays and texts in a safetensors file with a seal: a checksum over all of it, so that no damage goes unseen."""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "I64": np.dtype("<i8"),
    "F32": np.dtype("<f4"),
    "I32": np.dtype("<i4"),
}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64  # bytes: where the arrays begin
_SEAL = "sha256"


def sealed(arrays: Mapping[str, NDArray[Any]], texts: Mapping[str, str]) -> list[memoryview]:
    """Return the file's content, in parts; those of arrays are views of them.

    Args:
        arrays: float32, float64, int32 or int64, of any shape.
        texts: what else the file is to hold.
    """
    # The widest numbers first: so each array begins where its numbers may lie.
    ordered = sorted(arrays.items(), key=lambda item: -item[1].itemsize)
    table, views, end = {}, [], 0
    for name, array in ordered:
        views.append(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        offsets = [end, end + array.nbytes]
        table[name] = {"dtype": _DTYPE_NAMES[array.dtype], "shape": list(array.shape), "data_offsets": offsets}
        end += array.nbytes
    metadata = {**texts, _SEAL: _seal(dict(texts), table, *views)}
    header = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":")).encode()
    header = header.ljust(-(-(8 + len(header)) // _ALIGNMENT) * _ALIGNMENT - 8)
    return [memoryview(struct.pack("<Q", len(header)) + header), *views]


def unsealed(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays, as views of the content, and the texts of a file that was sealed.

    Raises:
        ValueError: it is damaged, or was never sealed.
    """
    start, texts, table = _header(content)
    seal = texts.pop(_SEAL, None)
    found = _seal(texts, table, memoryview(content)[start:])
    if found != seal:
        raise ValueError(f"its content has SHA-256 {found}, but it was written with {seal}")
    return {name: _array(content, start, **about) for name, about in table.items()}, texts


def _header(content: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    """Return where the arrays begin, the texts, and the table of the arrays."""
    nbytes = struct.unpack("<Q", content[:8])[0] if len(content) >= 8 else 0
    if not 0 < nbytes <= len(content) - 8:
        raise ValueError(f"it has {len(content):,} bytes, and a header of {nbytes:,}")
    try:
        table = json.loads(content[8 : 8 + nbytes])
        texts = table.pop("__metadata__")
        return 8 + nbytes, dict(texts), table
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error


def _array(content: bytes, start: int, dtype: str, shape: list[int], data_offsets: list[int]) -> NDArray[Any]:
    return np.ndarray(shape, _DTYPES[dtype], content, start + data_offsets[0])


def _seal(texts: dict[str, str], table: dict[str, Any], *arrays: memoryview) -> str:
    hashed = hashlib.sha256(json.dumps([texts, table], sort_keys=True).encode())
    for array in arrays:
        hashed.update(array)
    return hashed.hexdigest()
