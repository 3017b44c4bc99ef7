"""Vector code for one sample after the other: inputs that are pushed, and samples that change places.

push, add   what an input, or several in a row, add to the sums of a sample
turn        sums that lie by sample become the outputs of a tile
flip        rows of samples become a tile
squeeze     samples of a tile move side by side
"""

from typing import Any

from numba import types
from numba.extending import intrinsic

from taskgraph_dnn.kernels.vectors import UNALIGNED, Value, VectorCode


def push_of(row: int, *, shared: bool = False) -> Any:
    """Return the code that adds an input times its weights to the sums of a sample, `row` outputs at a time.

    Args:
        row: how many outputs.
        shared: they have one weight between them.
    """

    @intrinsic
    def push(typing, places, weights, first, stop, x, sums, sample):
        """Use `places[first:stop]`, and the weights of each; the sample's sums begin at the element `sample`."""

        def codegen(context, builder, signature, arguments):
            _, _, first, stop, x, _, sample = arguments
            code = VectorCode(context, builder, sums.dtype, row)
            places, weights, sums_ = code.arrays(signature, arguments, 0, 1, 5)
            sums_, x = builder.gep(sums_, [sample]), code.splat(x)

            def add(k: Value, _: list[Value]) -> list[Value]:
                place, weight = code.number(places, k), builder.mul(k, code.int64(row))
                one = code.weight(code.scalar(weights, k)) if shared else None
                for v in range(code.count):
                    at = code.address(sums_, place, v)
                    before = builder.load(at, align=UNALIGNED)
                    if one is None:
                        (total,) = code.multiply_add(x, [code.weights(weights, weight, v)], [before])
                    else:
                        total = code.fused(x, one, before)
                    builder.store(total, at, align=UNALIGNED)
                return []

            code.fold(first, stop, [], add)
            return context.get_dummy_value()

        i = types.int64
        return types.void(places, weights, i, i, sums.dtype, sums, i), codegen

    return push


def add_of(row: int) -> Any:
    """Return the code that adds `row` float32 values to as many sums."""

    @intrinsic
    def add(typing, values, first, sums, at):
        """The values begin at the element `first`, the sums at the element `at`."""

        def codegen(context, builder, signature, arguments):
            _, first, _, at = arguments
            code = VectorCode(context, builder, sums.dtype, row)
            values_, sums_ = code.arrays(signature, arguments, 0, 2)
            for v, total in enumerate(code.vectors(sums_, at)):
                x = code.weights(values_, first, v)
                builder.store(builder.fadd(total, x), code.address(sums_, at, v), align=UNALIGNED)
            return context.get_dummy_value()

        return types.void(values, types.int64, sums, types.int64), codegen

    return add


@intrinsic
def squeeze(typing, values, at, mask, into, to, kept, ahead):
    """Store the elements of the vector at the element `at` that `mask` says, side by side from the element `to` on.

    `kept` has as many bits set as `mask`, the lowest ones. What lies `ahead` elements further, on both sides, is
    fetched meanwhile. Only with AVX-512.
    """

    def codegen(context, builder, signature, arguments):
        _, at, mask, _, to, kept, ahead = arguments
        code = VectorCode(context, builder, values.dtype)
        values_, into_ = code.arrays(signature, arguments, 0, 3)
        for pointer, element in ((values_, at), (into_, to)):
            code.prefetch(pointer, builder.add(element, ahead))
        vector = builder.load(code.address(values_, at), align=UNALIGNED)
        code.store_first(code.squeeze(vector, mask), into_, to, kept)
        return context.get_dummy_value()

    i = types.int64
    return types.void(values, i, i, into, i, i, i), codegen


@intrinsic
def flip(typing, rows, first, stride, values, out, lanes):
    """Copy a square, as wide and high as a vector has elements, from rows of samples to rows of neurons.

    The first sample begins at the element `first`, the next one `stride` further; the first neuron goes to the element
    `out`, the next one `lanes` further.
    """

    def codegen(context, builder, signature, arguments):
        _, first, stride, _, out, lanes = arguments
        code = VectorCode(context, builder, values.dtype)
        rows_, values_ = code.arrays(signature, arguments, 0, 3)
        samples = [builder.add(first, builder.mul(stride, code.int64(i))) for i in range(code.width)]
        columns = code.transposed([code.vectors(rows_, at)[0] for at in samples])
        for i, column in enumerate(columns):
            at = builder.add(out, builder.mul(lanes, code.int64(i)))
            builder.store(column, code.address(values_, at), align=UNALIGNED)
        return context.get_dummy_value()

    i = types.int64
    return types.void(rows, i, i, values, i, i), codegen


@intrinsic
def turn(typing, sums, first, stride, order, number, following, lanes, limits, outputs, out):
    """End as many samples as a vector has lanes, for as many outputs: sums lie by sample, outputs by neuron.

    The sums of the first sample begin at the element `first`, those of the next one `stride` further. They belong to
    the outputs `order[number]` and those that follow it; room for `order[following]` and so on is fetched meanwhile.
    The lanes begin at the element `out` of `outputs`.
    """

    def codegen(context, builder, signature, arguments):
        _, first, stride, _, number, following, lanes, limits_, _, out = arguments
        code = VectorCode(context, builder, limits.dtype)
        sums, order, outputs = code.arrays(signature, arguments, 0, 3, 8)
        outputs = builder.gep(outputs, [out])
        rows = []
        for sample in range(code.width):
            at = builder.add(first, builder.mul(stride, code.int64(sample)))
            rows += code.vectors(sums, at)
        for r in range(code.width):
            code.prefetch(outputs, builder.mul(code.number(order, builder.add(following, code.int64(r))), lanes))
        numbers = [code.number(order, builder.add(number, code.int64(r))) for r in range(code.width)]
        columns = zip(numbers, code.transposed(rows), strict=True)
        return code.store(
            [(builder.mul(n, lanes), [column]) for n, column in columns], outputs, limits_, flag_nan=False
        )

    i = types.int64
    return i(sums, i, i, order, i, i, i, limits, outputs, i), codegen
