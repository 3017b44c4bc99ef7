"""Dask dataframes as samples: a row a sample, a column a value."""

from typing import Any

from dask import is_dask_collection

from taskgraph_dnn.errors import InputError


def is_frame(samples: Any) -> bool:
    """Return whether somebody gave a Dask dataframe."""
    return is_dask_collection(samples) and hasattr(type(samples), "dtypes") and hasattr(type(samples), "map_partitions")


def frame_array(frame: Any, inputs: int) -> Any:
    """Return the Dask array of a dataframe's values. Workers count the rows of each partition: the values stay there.

    Raises:
        InputError: it has another number of columns than the network has inputs, or one that holds no numbers.
    """
    if len(frame.columns) != inputs:
        raise InputError(f"samples have {len(frame.columns)} columns, but the network has {inputs} inputs")
    for name, dtype in frame.dtypes.items():
        if getattr(dtype, "kind", "O") not in "fiub":
            raise InputError(f"column {name!r} of the samples is of type {dtype}, expected real numbers")
    own = {name: "float64" for name, dtype in frame.dtypes.items() if not hasattr(dtype, "newbyteorder")}
    numbers = frame.astype(own) if own else frame  # pandas' own types, which numpy takes for objects
    return numbers.to_dask_array(lengths=frame.map_partitions(len).compute().tolist())
