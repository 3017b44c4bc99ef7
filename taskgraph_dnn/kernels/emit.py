"""The inner loops of kernels that work on tiles, emitted as vector code.

Compiled from Python loops, the sums of an inner loop stand in memory; here they stand in registers. Four pieces of
code compute sums:

    row     one output, all lanes of a tile           each input vector is loaded for one multiply-add
    slice   `SLICE` outputs with equally many edges   likewise, but their edges are decoded more cheaply
    quad    4 outputs, inputs by who reads them       each input vector is loaded once for those that do
    block   up to 16 outputs that share their inputs  each input vector is loaded once for all of them

All begin with the bias, add the edges in order, each with one fused multiply-add where the machine has it, activate,
cap, store, and return flags: bit `lane` is set where an output is not zero, bit `NAN` where one is nan (or where inf
and -inf meet). Activations that need exp are put on a tile afterwards, by `pass_of`.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from taskgraph_dnn.kernels.vectors import INT32, UNALIGNED, VECTOR_NBYTES, Value, VectorCode

#: Outputs of a slice, and of a quad.
SLICE, QUAD = 4, 4

#: What an input of a quad may be: bit r is set where output r reads it.
PATTERNS = range(1, 2**QUAD)


def row_of(lanes: int, *, tiles: int = 1, flag_nan: bool = False) -> Any:
    """Return the code of one output, for tiles of `lanes` samples.

    Args:
        lanes: samples in a tile.
        tiles: so many tiles at once, for which each edge is decoded once; the flags of the second follow the first's.
        flag_nan: an edge may be padding.
    """

    @intrinsic
    def row(typing, indices, weights, inputs, biases, limits, outputs, where, passing):
        """Compute one output, or a part of it.

        `where` is (edge, stop, shift, tile, number, output): the edges `indices[edge:stop]` of output `number`, whose
        weights stand `shift` further in `weights`; the tile, and the output's row, begin at these elements.
        `passing` is (first, last, tile, output): whether the sums begin with the bias, and not with those of the edges
        before, which stand in the output's row; whether they end, or are to stand there; how far the next tile is, and
        the output's row in it.
        """

        def codegen(context, builder, signature, arguments):
            code = VectorCode(context, builder, limits.dtype, lanes)
            indices, weights, inputs, biases, outputs = code.arrays(signature, arguments, 0, 1, 2, 3, 5)
            edge, stop, shift, tile, number, output = code.numbers(arguments[6], 6)
            first, last, tile_stride, output_stride = code.numbers(arguments[7], 4)
            weights = builder.gep(weights, [shift])
            starts = [builder.add(tile, builder.mul(tile_stride, code.int64(t))) for t in range(tiles)]
            tables = [builder.gep(inputs, [start]) for start in starts]
            rows = [builder.add(output, builder.mul(output_stride, code.int64(t))) for t in range(tiles)]

            def add(k: Value, sums: list[Value]) -> list[Value]:
                at = builder.mul(code.number(indices, k), code.int64(lanes))
                xs = [x for table in tables for x in code.vectors(table, at)]
                return code.multiply_add(code.weight(code.scalar(weights, k)), xs, sums)

            begin = _begin(code, first, code.scalar(biases, number), outputs, rows)
            sums = code.fold(edge, stop, begin, add)
            parts = [(row, sums[t * code.count : (t + 1) * code.count]) for t, row in enumerate(rows)]

            def end() -> list[Value]:
                found = [code.store([part], outputs, arguments[4], flag_nan=flag_nan) for part in parts]
                return [_side_by_side(code, found, code.int64(lanes))]

            return _end(code, last, end, outputs, parts)

        return types.int64(indices, weights, inputs, biases, limits, outputs, where, passing), codegen

    return row


def _begin(code: VectorCode, first: Value, bias: Value, outputs: Value, rows: list[Value]) -> list[Value]:
    """The sums of rows before their edges: the bias, or what stands there of the edges before."""

    def biases() -> list[Value]:
        return [code.weight(bias)] * (len(rows) * code.count)

    return code.either(first, biases, lambda: [x for row in rows for x in code.vectors(outputs, row)])


def _end(code: VectorCode, last: Value, end: Any, outputs: Value, parts: list[tuple[Value, list[Value]]]) -> Value:
    """End the sums of rows and return the flags, or put them there for the edges that follow."""

    def keep() -> list[Value]:
        code.put(parts, outputs)
        return [code.int64(0)]

    return code.either(last, end, keep)[0]


def _side_by_side(code: VectorCode, flags: list[Value], lanes: Value) -> Value:
    """The flags of one tile after the other, each with bits for so many lanes."""
    shifted = [code.b.shl(found, code.b.mul(code.int64(t), lanes)) for t, found in enumerate(flags)]
    return code.joined(code.b.or_, shifted)


def quad_of(vectors: int, *, tiles: int = 1) -> Any:
    """Return the code of `QUAD` outputs whose inputs are sorted by which of them read them.

    Args:
        vectors: how many vectors of lanes, of each tile.
        tiles: so many tiles at once.
    """

    @intrinsic
    def quad(typing, table, indices, weights, inputs, biases, limits, outputs, where, passing):
        """Compute four outputs, or a part of them.

        `where` is (row, tile, number, output, lanes): from the element `row` on, `table` says where the weights begin,
        and where the inputs of each pattern do, and the last ones end; the lanes of outputs `number` and following
        begin at the elements `tile` and `output`, and neurons are `lanes` apart. `passing` is as for `row_of`, and so
        are the flags.
        """

        def codegen(context, builder, signature, arguments):
            per_vector = 8 * VECTOR_NBYTES // limits.dtype.bitwidth
            code = VectorCode(context, builder, limits.dtype, vectors * per_vector)
            table, indices, weights, inputs, biases, outputs = code.arrays(signature, arguments, 0, 1, 2, 3, 4, 6)
            row, tile, number, output, lanes = code.numbers(arguments[7], 5)
            first, last, tile_stride, output_stride = code.numbers(arguments[8], 4)
            table, biases = builder.gep(table, [row]), builder.gep(biases, [number])
            starts = [builder.add(tile, builder.mul(tile_stride, code.int64(t))) for t in range(tiles)]
            tables = [builder.gep(inputs, [start]) for start in starts]
            vectors_each = tiles * code.count

            def row_at(r: int, t: int) -> Value:
                offset = builder.mul(output_stride, code.int64(t))
                return builder.add(builder.add(output, offset), builder.mul(lanes, code.int64(r)))

            rows = [[row_at(r, t) for t in range(tiles)] for r in range(QUAD)]
            sums = [_begin(code, first, code.scalar(biases, code.int64(r)), outputs, rows[r]) for r in range(QUAD)]
            weight, start = (code.scalar(table, code.int64(k)) for k in range(2))
            for pattern in PATTERNS:
                readers = [r for r in range(QUAD) if pattern >> r & 1]
                stop = code.scalar(table, code.int64(pattern + 1))

                def add(k: Value, values: list[Value], readers=readers, weight=weight, start=start) -> list[Value]:
                    at = builder.mul(code.number(indices, k), lanes)
                    xs = [x for inputs_ in tables for x in code.vectors(inputs_, at)]
                    own = builder.add(weight, builder.mul(builder.sub(k, start), code.int64(len(readers))))
                    added = []
                    for n in range(len(readers)):
                        w = code.weight(code.scalar(weights, builder.add(own, code.int64(n))))
                        added += code.multiply_add(w, xs, values[n * vectors_each : (n + 1) * vectors_each])
                    return added

                after = code.fold(start, stop, [x for r in readers for x in sums[r]], add)
                for n, r in enumerate(readers):
                    sums[r] = after[n * vectors_each : (n + 1) * vectors_each]
                here = builder.mul(builder.sub(stop, start), code.int64(len(readers)))
                weight, start = builder.add(weight, here), stop

            def of(t: int) -> list[tuple[Value, list[Value]]]:
                return [(rows[r][t], sums[r][t * code.count : (t + 1) * code.count]) for r in range(QUAD)]

            def end() -> list[Value]:
                found = [code.store(of(t), outputs, arguments[5], flag_nan=False) for t in range(tiles)]
                return [_side_by_side(code, found, lanes)]

            return _end(code, last, end, outputs, [part for t in range(tiles) for part in of(t)])

        return types.int64(table, indices, weights, inputs, biases, limits, outputs, where, passing), codegen

    return quad


def slice_of(lanes: int) -> Any:
    """Return the code of `SLICE` outputs with equally many edges, for tiles of `lanes` samples."""

    @intrinsic
    def rows(typing, words, inputs, biases, limits, outputs, where):
        """Compute the outputs of a slice. A word is an edge: the input in its lower half, and above that the weight.

        `where` is (edge, stop, tile, number, output): the words `SLICE` x `edge` to `stop` of output `number` and those
        that follow it; the tile, and the first output's row, begin at these elements.
        """

        def codegen(context, builder, signature, arguments):
            code = VectorCode(context, builder, limits.dtype, lanes)
            words, inputs, biases, outputs = code.arrays(signature, arguments, 0, 1, 2, 4)
            edge, stop, tile, number, output = code.numbers(arguments[5], 5)
            inputs = builder.gep(inputs, [tile])

            def add(k: Value, sums: list[Value]) -> list[Value]:
                added = []
                for r in range(SLICE):
                    word = code.scalar(words, builder.add(builder.mul(k, code.int64(SLICE)), code.int64(r)))
                    at = builder.mul(builder.and_(word, code.int64(2**32 - 1)), code.int64(lanes))
                    bits = builder.trunc(builder.lshr(word, code.int64(32)), INT32)
                    weight = code.weight(builder.bitcast(bits, ir.FloatType()))
                    part = sums[r * code.count : (r + 1) * code.count]
                    added += code.multiply_add(weight, code.vectors(inputs, at), part)
                return added

            numbers = [builder.add(number, code.int64(r)) for r in range(SLICE)]
            initial = [code.weight(code.scalar(biases, n)) for n in numbers for _ in range(code.count)]
            sums = code.fold(edge, stop, initial, add)
            rows = [builder.add(output, code.int64(r * lanes)) for r in range(SLICE)]
            parts = [sums[r * code.count : (r + 1) * code.count] for r in range(SLICE)]
            return code.store(list(zip(rows, parts, strict=True)), outputs, arguments[3], flag_nan=True)

        return types.int64(words, inputs, biases, limits, outputs, where), codegen

    return rows


def block_of(size: int) -> Any:
    """Return the code of `size` outputs that share their inputs, for one vector of lanes."""

    @intrinsic
    def block(typing, indices, weights, inputs, biases, order, limits, outputs, where):
        """Compute the outputs `order[first]` and those that follow it.

        `where` is (edge, stop, ahead, weight, stride, tile, lanes, first, out): the inputs `indices[edge:stop]`, and
        those to fetch meanwhile, `ahead` further; the weights of the first input begin at `weight`, those of the next
        one `stride` further; the lanes begin at the elements `tile` and `out`.
        """

        def codegen(context, builder, signature, arguments):
            code = VectorCode(context, builder, limits.dtype)
            indices, weights, inputs, biases, order, outputs = code.arrays(signature, arguments, 0, 1, 2, 3, 4, 6)
            edge, stop, ahead, weight, stride, tile, lanes, first, out = code.numbers(arguments[7], 9)
            inputs, outputs = builder.gep(inputs, [tile]), builder.gep(outputs, [out])

            def add(k: Value, sums: list[Value]) -> list[Value]:
                code.prefetch(inputs, builder.mul(code.number(indices, builder.add(k, ahead)), lanes))
                xs = code.vectors(inputs, builder.mul(code.number(indices, k), lanes))
                row = builder.gep(weights, [builder.add(weight, builder.mul(builder.sub(k, edge), stride))])
                each = [code.weight(code.scalar(row, code.int64(r))) for r in range(size)]
                return [code.multiply_add(w, xs, [total])[0] for w, total in zip(each, sums, strict=True)]

            numbers = [code.number(order, builder.add(first, code.int64(r))) for r in range(size)]
            sums = code.fold(edge, stop, [code.weight(code.scalar(biases, n)) for n in numbers], add)
            rows = [(builder.mul(n, lanes), [total]) for n, total in zip(numbers, sums, strict=True)]
            return code.store(rows, outputs, arguments[5], flag_nan=True)

        return types.int64(indices, weights, inputs, biases, order, limits, outputs, where), codegen

    return block


def pass_of(function: str) -> Any:
    """Return the code that replaces elements by a function of them: "exp", "sigmoid" or "tanh"."""

    @intrinsic
    def replace(typing, values, start, count):
        """Replace `count` elements, a multiple of 16, of `values` from `start` on."""

        def codegen(context, builder, signature, arguments):
            code = VectorCode(context, builder, values.dtype)
            (pointer,) = code.arrays(signature, arguments, 0)
            pointer = builder.gep(pointer, [arguments[1]])

            def apply(k: Value, _: list[Value]) -> list[Value]:
                at = code.address(pointer, builder.mul(k, code.int64(code.width)))
                x = builder.load(at, align=UNALIGNED)
                builder.store(getattr(code, function)(x), at, align=UNALIGNED)
                return []

            code.fold(code.int64(0), builder.sdiv(arguments[2], code.int64(code.width)), [], apply)
            return context.get_dummy_value()

        return types.void(values, types.int64, types.int64), codegen

    return replace
