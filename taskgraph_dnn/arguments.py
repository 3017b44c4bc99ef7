"""Checks of plain arguments, so that a wrong one is an error of ours and not of whatever it reaches first."""

import operator
from typing import Any

from taskgraph_dnn.errors import TaskgraphError


def whole_number(
    name: str, value: Any, at_least: int, error: type[TaskgraphError], *, text: bool = False, alternative: str = ""
) -> int:
    """Return `value` as an int.

    Args:
        name: what it is called in the message.
        value: an int, of Python or numpy; no bool.
        at_least: the least that it may be.
        error: what to raise.
        text: whether it may be written out, as on the command line or in the environment.
        alternative: what else was possible, for the message.

    Raises:
        error: it is no whole number, or less than `at_least`.
    """
    try:
        number = int(value) if text and isinstance(value, str) else operator.index(value)
        if not isinstance(value, bool) and number >= at_least:
            return number
    except (TypeError, ValueError):
        pass
    raise error(f"{name} is {value!r}, expected a whole number of at least {at_least}{alternative}")
