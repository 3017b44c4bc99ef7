"""Checks of plain arguments, so that a wrong one is an error of ours and not of whatever it reaches first."""

import operator
from typing import Any

from taskgraph_dnn.errors import TaskgraphError


def whole_number(name: str, value: Any, at_least: int, error: type[TaskgraphError]) -> int:
    """Return `value` as an int.

    Raises:
        error: it is no whole number, or less than `at_least`.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise error(f"{name} is {value!r}, expected a whole number of at least {at_least}") from None
    if number < at_least:
        raise error(f"{name} is {number}, expected at least {at_least}")
    return number
