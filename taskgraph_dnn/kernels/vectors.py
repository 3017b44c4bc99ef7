"""Operations on vectors, as LLVM instructions: what `emit` and `emit_samples` make inner loops of.

Vectors are as wide as the machine's registers: 16 float32 with AVX-512, 8 with AVX2, 4 with NEON. LLVM turns them into
the instructions of whatever processor it compiles for.
"""

import math
import platform
from collections.abc import Callable
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import config
from numba.core import cgutils

#: The flag that says that an output is nan. Lanes have the bits below.
NAN = 62

INT32, INT64 = ir.IntType(32), ir.IntType(64)
_FUSE = ("contract",)  # lets LLVM make one fused instruction of a multiply and an add
UNALIGNED = 1  # bytes; costs nothing where the address happens to be aligned


def _features() -> str:
    return config.CPU_FEATURES or str(llvmlite.binding.get_host_cpu_features().flatten())


#: Bytes of a vector register.
VECTOR_NBYTES = 64 if "+avx512f" in _features() else 32 if "+avx" in _features() else 16

#: Whether the processor can put chosen elements of a vector side by side.
SQUEEZES = VECTOR_NBYTES == 64

#: Whether it multiplies and adds in one, and so rounds once.
FUSES = "+fma" in _features() or platform.machine() in ("aarch64", "arm64")

#: Sums that are kept in registers: there are 32 of them with AVX-512 and on ARM, otherwise 16.
BLOCK = 16 if VECTOR_NBYTES == 64 or platform.machine() in ("aarch64", "arm64") else 8

Value = Any

#: ln 2 as a number with few bits, which whole numbers multiply exactly, and the rest; by bytes of the type (Cephes).
_LN2 = {4: (0.693359375, -2.12194440054690583e-4), 8: (0.693147180369123816490, 1.90821492927058770002e-10)}


class VectorCode:
    """Emits operations on vectors of one element type; a row of a tile is `count` vectors of `width` elements."""

    def __init__(self, context: Any, builder: Any, element: Any, row: int | None = None) -> None:
        self.context, self.b = context, builder
        self.element = context.get_data_type(element)
        self.nbytes = element.bitwidth // 8
        self.width = min(VECTOR_NBYTES // self.nbytes, row or VECTOR_NBYTES)
        self.count = 1 if row is None else row // self.width
        self.vector = ir.VectorType(self.element, self.width)

    def arrays(self, signature: Any, arguments: Any, *numbers: int) -> list[Value]:
        """The addresses of those arguments that are arrays."""
        make = self.context.make_array
        return [make(signature.args[n])(self.context, self.b, arguments[n]).data for n in numbers]

    def numbers(self, value: Value, count: int) -> list[Value]:
        """The numbers of a tuple."""
        found: list[Value] = cgutils.unpack_tuple(self.b, value, count)
        return found

    def int64(self, number: int) -> Value:
        """A constant index."""
        return ir.Constant(INT64, number)

    def scalar(self, pointer: Value, index: Value) -> Value:
        """The element with an index."""
        return self.b.load(self.b.gep(pointer, [index]))

    def number(self, pointer: Value, index: Value) -> Value:
        """An index, as 64 bits."""
        value = self.scalar(pointer, index)
        return value if value.type == INT64 else self.b.zext(value, INT64)

    def weight(self, value: Value) -> Value:
        """A float32 weight in all elements of a vector."""
        return self.splat(value if value.type == self.element else self.b.fpext(value, self.element))

    def constant(self, number: float) -> Value:
        """A number in all elements of a vector."""
        return ir.Constant(self.vector, [number] * self.width)

    def weights(self, pointer: Value, element: Value, vector: int) -> Value:
        """A vector of float32 weights that stand side by side: so many vectors after an element."""
        kind = ir.VectorType(ir.FloatType(), self.width)
        at = self.b.gep(pointer, [self.b.add(element, self.int64(vector * self.width))])
        value = self.b.load(self.b.bitcast(at, kind.as_pointer()), align=UNALIGNED)
        return value if kind == self.vector else self.b.fpext(value, self.vector)

    def splat(self, scalar: Value) -> Value:
        """A scalar in all elements of a vector."""
        kind = ir.VectorType(scalar.type, self.width)
        first = self.b.insert_element(ir.Constant(kind, ir.Undefined), scalar, ir.Constant(INT32, 0))
        everywhere = ir.Constant(ir.VectorType(INT32, self.width), [0] * self.width)
        return self.b.shuffle_vector(first, ir.Constant(kind, ir.Undefined), everywhere)

    def address(self, pointer: Value, element: Value, vector: int = 0) -> Value:
        """Where a vector begins: so many vectors after an element."""
        at = self.b.add(element, self.int64(vector * self.width))
        return self.b.bitcast(self.b.gep(pointer, [at]), self.vector.as_pointer())

    def vectors(self, pointer: Value, element: Value) -> list[Value]:
        """The vectors of a row that begins at an element."""
        return [self.b.load(self.address(pointer, element, v), align=UNALIGNED) for v in range(self.count)]

    def multiply_add(self, weight: Value, xs: list[Value], sums: list[Value]) -> list[Value]:
        """Weight x x + sum, for each of them."""
        products = [self.b.fmul(weight, x, flags=_FUSE) for x in xs]
        return [self.b.fadd(p, s, flags=_FUSE) for p, s in zip(products, sums, strict=True)]

    def fused(self, a: Value, b: Value, c: Value) -> Value:
        """A x b + c. LLVM multiplies two scalars before it makes vectors of them, and then there is nothing to fuse."""
        if not FUSES:
            return self.b.fadd(self.b.fmul(a, b), c)
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        name = f"llvm.fma.v{self.width}f{8 * self.nbytes}"
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), [a, b, c])

    def prefetch(self, pointer: Value, element: Value, nearness: int = 3) -> None:
        """Have the cache line of an element brought to the first cache, or with 2 to the second."""
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
        function = self.b.module.declare_intrinsic("llvm.prefetch", [byte], kind)
        read, keep, data = (ir.Constant(INT32, number) for number in (0, nearness, 1))
        self.b.call(function, [self.b.bitcast(self.b.gep(pointer, [element]), byte), read, keep, data])

    def squeeze(self, value: Value, mask: Value) -> Value:
        """Those elements of a vector whose bits are set in a number, side by side from the first one on (AVX-512)."""
        return self._masked("llvm.x86.avx512.mask.compress", self.vector, [value, value], mask)

    def store_first(self, value: Value, pointer: Value, element: Value, mask: Value) -> None:
        """Store those elements of a vector whose bits are set in a number, and nothing else."""
        arguments = [value, self.address(pointer, element), ir.Constant(INT32, UNALIGNED)]
        self._masked("llvm.masked.store", ir.VoidType(), arguments, mask, suffix=".p0")

    def _masked(self, name: str, returns: Any, arguments: list[Value], mask: Value, suffix: str = "") -> Value:
        """Call an operation whose last argument says which elements it is for."""
        bits = self.b.trunc(mask, ir.IntType(self.width))
        lanes = self.b.bitcast(bits, ir.VectorType(ir.IntType(1), self.width))
        kind = ir.FunctionType(returns, [*(argument.type for argument in arguments), lanes.type])
        name = f"{name}.v{self.width}f{8 * self.nbytes}{suffix}"
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), [*arguments, lanes])

    def fold(self, start: Value, stop: Value, initial: list[Value], body: Callable[..., list[Value]]) -> list[Value]:
        """Emit `for i in range(start, stop): values = body(i, values)` and return the values after it."""
        b, before = self.b, self.b.block
        loop, end = b.append_basic_block("edges"), b.append_basic_block("end")
        b.cbranch(b.icmp_signed("<", start, stop), loop, end)
        b.position_at_end(loop)
        index = b.phi(INT64)
        values = [b.phi(value.type) for value in initial]
        results = body(index, values)
        following = b.add(index, self.int64(1))
        for phi, first, result in zip([index, *values], [start, *initial], [following, *results], strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(result, b.block)
        last = b.block
        b.cbranch(b.icmp_signed("<", following, stop), loop, end)
        b.position_at_end(end)
        after = [b.phi(value.type) for value in initial]
        for phi, first, result in zip(after, initial, results, strict=True):
            phi.add_incoming(first, before)
            phi.add_incoming(result, last)
        return after

    def either(self, number: Value, then: Callable[[], list[Value]], other: Callable[[], list[Value]]) -> list[Value]:
        """Emit `then() if number else other()`, which give equally many values of the same types."""
        b, found = self.b, []
        with b.if_else(b.icmp_signed("!=", number, ir.Constant(number.type, 0))) as branches:
            for branch, values in zip(branches, (then, other), strict=True):
                with branch:
                    found.append((values(), b.block))
        results = []
        for pair in zip(*(values for values, _ in found), strict=True):
            results.append(b.phi(pair[0].type))
            for value, (_, block) in zip(pair, found, strict=True):
                results[-1].add_incoming(value, block)
        return results

    def larger(self, a: Value, b: Value) -> Value:
        """The larger of two, or `b` where one is nan; one instruction."""
        return self.b.select(self.b.fcmp_ordered(">", a, b), a, b)

    def smaller(self, a: Value, b: Value) -> Value:
        """The smaller of two, or `b` where one is nan; one instruction."""
        return self.b.select(self.b.fcmp_ordered("<", a, b), a, b)

    def activated(self, totals: list[Value], limits: Value) -> list[Value]:
        """The totals, or slope x total where that is larger, at least `low` and at most `cap`; nan passes."""
        b = self.b
        low, slope, cap = cgutils.unpack_tuple(b, limits, 3)
        before = b.block
        with b.if_then(b.fcmp_unordered("!=", slope, ir.Constant(self.element, 1.0))):
            leaky = [self.larger(b.fmul(total, self.splat(slope)), total) for total in totals]
            inside = b.block
        activated = []
        for total, other in zip(totals, leaky, strict=True):
            either = b.phi(self.vector)
            either.add_incoming(total, before)
            either.add_incoming(other, inside)
            activated.append(either)
        low, cap = self.splat(low), self.splat(cap)
        return [self.smaller(cap, self.larger(low, total)) for total in activated]

    def exp_parts(self, x: Value) -> tuple[Value, Value]:
        """2^n and e^r - 1, where x = n ln 2 + r and |r| <= ln 2 / 2: e^x is 2^n x (e^r - 1) + 2^n.

        Reduction in two steps after Cody and Waite (1980), and Taylor's polynomial to the last bit.
        """
        b, double = self.b, self.nbytes == 8
        mantissa, degree, high, low = (52, 13, *_LN2[8]) if double else (23, 7, *_LN2[4])
        magic = self.constant(1.5 * 2.0**mantissa)  # where the last place is 1, so adding it rounds to a whole number
        shifted = b.fadd(b.fmul(x, self.constant(1 / math.log(2))), magic)
        n = b.fsub(shifted, magic)
        r = b.fsub(b.fsub(x, b.fmul(n, self.constant(high))), b.fmul(n, self.constant(low)))
        p = self.constant(1 / math.factorial(degree))
        for k in range(degree - 1, 0, -1):
            p = b.fadd(b.fmul(p, r, flags=_FUSE), self.constant(1 / math.factorial(k)), flags=_FUSE)
        integers = ir.VectorType(ir.IntType(8 * self.nbytes), self.width)

        def whole(number: int) -> Value:
            return ir.Constant(integers, [number] * self.width)

        exponent = b.add(b.bitcast(shifted, integers), whole(1023 if double else 127))
        return b.bitcast(b.shl(exponent, whole(mantissa)), self.vector), b.fmul(p, r)

    def exp(self, x: Value) -> Value:
        """e^x; 0 where it is no normal number, and inf where it is close to the largest."""
        b, lowest, limit = self.b, *((-708.3, 709.0) if self.nbytes == 8 else (-87.3, 88.0))
        scale, p = self.exp_parts(x)
        value = b.fadd(b.fmul(scale, p, flags=_FUSE), scale, flags=_FUSE)
        value = b.select(b.fcmp_ordered("<", x, self.constant(lowest)), self.constant(0.0), value)
        return b.select(b.fcmp_ordered(">", x, self.constant(limit)), self.constant(math.inf), value)

    def sigmoid(self, x: Value) -> Value:
        """1 / (1 + e^-x)."""
        one = self.constant(1.0)
        return self.b.fdiv(one, self.b.fadd(one, self.exp(self.b.fneg(x))))

    def tanh(self, x: Value) -> Value:
        """Tanh x, exact near 0, too."""
        b, limit = self.b, 20.0 if self.nbytes == 8 else 10.0  # where it is 1 to the last bit
        x = b.select(b.fcmp_ordered(">", x, self.constant(limit)), self.constant(limit), x)
        x = b.select(b.fcmp_ordered("<", x, self.constant(-limit)), self.constant(-limit), x)
        scale, p = self.exp_parts(b.fadd(x, x))
        e = b.fadd(b.fmul(scale, p), b.fsub(scale, self.constant(1.0)))  # e^2x - 1, exact near 0
        return b.fdiv(e, b.fadd(e, self.constant(2.0)))

    def transposed(self, rows: list[Value]) -> list[Value]:
        """As many vectors as they have elements: element j of vector i becomes element i of vector j."""
        step = 1
        while step < self.width:
            turned = list(rows)
            for i in range(self.width):
                if not i & step:
                    turned[i], turned[i + step] = self._exchanged(rows[i], rows[i + step], step)
            rows, step = turned, 2 * step
        return rows

    def _exchanged(self, a: Value, b: Value, step: int) -> tuple[Value, Value]:
        """Exchange the elements of `a` whose number has bit `step` with those of `b` whose number has not."""
        w = self.width
        low = [j if not j & step else w + j - step for j in range(w)]
        high = [j + step if not j & step else w + j for j in range(w)]
        kind = ir.VectorType(INT32, w)
        return tuple(self.b.shuffle_vector(a, b, ir.Constant(kind, order)) for order in (low, high))

    def bits(self, mask: Value) -> Value:
        """A vector of booleans as the lowest bits of a number."""
        return self.b.zext(self.b.bitcast(mask, ir.IntType(self.width)), INT64)

    def put(self, rows: list[tuple[Value, list[Value]]], pointer: Value) -> None:
        """Store rows that begin at given elements as they are."""
        for element, row in rows:
            for v, value in enumerate(row):
                self.b.store(value, self.address(pointer, element, v), align=UNALIGNED)

    def store(self, rows: list[tuple[Value, list[Value]]], pointer: Value, limits: Value, *, flag_nan: bool) -> Value:
        """Activate the sums of rows that begin at given elements, store them, and return the flags.

        Only where an edge can be padding somebody asks whether an output is nan.
        """
        b, flags = self.b, self.int64(0)
        totals = self.activated([total for _, sums in rows for total in sums], limits)
        integers = ir.VectorType(ir.IntType(8 * self.nbytes), self.width)
        for v in range(self.count):
            column = totals[v :: self.count]
            for (element, _), total in zip(rows, column, strict=True):
                b.store(total, self.address(pointer, element, v), align=UNALIGNED)
            bits = self.joined(b.or_, [b.bitcast(total, integers) for total in column])
            signless = b.shl(bits, ir.Constant(integers, [1] * self.width))  # -0 is 0
            alive = b.icmp_unsigned("!=", signless, ir.Constant(integers, [0] * self.width))
            if flag_nan:
                everything = self.joined(b.fadd, column)  # nan if one is; also of inf and -inf, which does no harm
                nan = b.icmp_signed("!=", self.bits(b.fcmp_unordered("uno", everything, everything)), self.int64(0))
                flags = b.or_(flags, b.shl(b.zext(nan, INT64), self.int64(NAN)))
            flags = b.or_(flags, b.shl(self.bits(alive), self.int64(v * self.width)))
        return flags

    def joined(self, operation: Any, values: list[Value]) -> Value:
        """The values joined two by two, which keeps no operation waiting for a long row of others."""
        while len(values) > 1:
            pairs = zip(values[::2], values[1::2], strict=False)
            values = [operation(x, y) for x, y in pairs] + values[len(values) // 2 * 2 :]
        return values[0]
