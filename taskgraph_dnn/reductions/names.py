"""The reductions by name, and how users choose them."""

from collections.abc import Sequence
from typing import Any

from taskgraph_dnn.errors import PlanError
from taskgraph_dnn.reductions.static import STATIC

#: On activations, as a run goes. The results are those of the unreduced run, bit for bit.
DYNAMIC = ("dead-samples", "duplicate-samples", "fixed-point", "merge-partitions")

#: All of them, in the order in which they are named everywhere.
EXACT = (*DYNAMIC, *STATIC)

#: What a single word stands for.
WORDS = {"exact": EXACT, "dynamic": DYNAMIC, "none": ()}


def chosen_reductions(value: Any) -> tuple[str, ...]:
    """Return the reductions that `value` names, in the order of `EXACT`.

    Args:
        value: "exact", "dynamic", "none", or names of reductions: a list, or a text with commas or + between them.

    Raises:
        PlanError: a name is unknown.
    """
    names: Any = value
    if isinstance(value, str):
        if value.strip() in WORDS:
            return WORDS[value.strip()]
        names = [name.strip() for name in value.replace("+", ",").split(",")]
    if isinstance(names, bytes) or not isinstance(names, Sequence | set | frozenset):
        raise PlanError(f"reductions is {value!r}, expected {_EXPECTED}")
    unknown = [name for name in names if name not in EXACT]
    if unknown and unknown[0] in WORDS:
        raise PlanError(f"{unknown[0]!r} stands alone: it is not one of several reductions")
    if unknown:
        raise PlanError(f"unknown reduction {unknown[0]!r}, expected {_EXPECTED}")
    return tuple(name for name in EXACT if name in names)


_EXPECTED = f"{', '.join(WORDS)}, or names among {', '.join(EXACT)}"
