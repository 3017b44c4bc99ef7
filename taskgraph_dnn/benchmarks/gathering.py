"""Rows gathered by vector code that does nothing else: a load for each vector, and an addition that takes no longer.

A sparse kernel needs a row of its tile for each edge. Where outputs share no inputs, it gets them no faster than this.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from numba import types
from numba.extending import intrinsic

from taskgraph_dnn.kernels import jit, vectors
from taskgraph_dnn.kernels.jit import compile_for, readonly
from taskgraph_dnn.kernels.vectors import UNALIGNED, Value, VectorCode

#: Values of a row: those of a tile that one edge needs.
LANES = 32

#: Rows that are added to sums of their own, so that no addition waits for the one before.
TOGETHER = 4

#: How many rows ahead they are fetched where they come from memory.
AHEAD = 256

#: Makes numba compile anew where these have changed, as in `kernels.compiled`.
_EMITTED = hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in (vectors, jit))).hexdigest()


def _rows_of(ahead: int) -> Any:
    @intrinsic
    def rows(typing, table, places, first, stop, sums):
        """Add the rows `places[first:stop]`, as many as a multiple of `TOGETHER`, to the sums."""

        def codegen(context, builder, signature, arguments):
            code = VectorCode(context, builder, table.dtype, LANES)
            from_, places, to = code.arrays(signature, arguments, 0, 1, 4)

            def element(number: Value) -> Value:
                return builder.mul(code.number(places, number), code.int64(LANES))

            def add(k: Value, sums: list[Value]) -> list[Value]:
                loaded = []
                for r in range(TOGETHER):
                    number = builder.add(builder.mul(k, code.int64(TOGETHER)), code.int64(r))
                    if ahead:
                        later = element(builder.add(number, code.int64(ahead)))
                        for line in range(0, LANES, 16):
                            code.prefetch(from_, builder.add(later, code.int64(line)), nearness=2)
                    loaded += code.vectors(from_, element(number))
                return [builder.fadd(x, total) for x, total in zip(loaded, sums, strict=True)]

            start, end = (builder.sdiv(number, code.int64(TOGETHER)) for number in arguments[2:4])
            sums = code.fold(start, end, [code.constant(0.0)] * (TOGETHER * code.count), add)
            for v in range(code.count):
                at = code.address(to, code.int64(0), v)
                before = builder.load(at, align=UNALIGNED)
                builder.store(code.joined(builder.fadd, [before, *sums[v :: code.count]]), at, align=UNALIGNED)
            return context.get_dummy_value()

        return types.void(table, places, types.int64, types.int64, sums), codegen

    return rows


_near, _far = _rows_of(0), _rows_of(AHEAD)


def _gather(emitted: str, far: bool) -> Callable[..., None]:
    def gather(table, places, first, stop, times, sums):
        assert emitted
        for _ in range(times):
            if far:
                _far(table, places, first, stop, sums)
            else:
                _near(table, places, first, stop, sums)

    return gather


@cache
def gathering(*, far: bool) -> Callable[..., None]:
    """Return `gather(table, places, first, stop, times, sums)`, which adds rows to `sums`, so many times.

    The rows `places[first:stop]` (int32) of `table` (rows x `LANES`, float32) are as many as a multiple of `TOGETHER`,
    and at least `AHEAD` places follow them. Whether they come from `far` says whether they are fetched ahead.
    """
    floats, i = types.Array(types.float32, 1, "C"), types.int64
    table, places = readonly(types.float32, 2), readonly(types.int32)
    return compile_for(_gather(_EMITTED, far), table, places, i, i, i, floats)
