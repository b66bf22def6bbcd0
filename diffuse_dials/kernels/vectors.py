"""Vector instructions (several numbers at once) that the compiler does not find by itself."""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from diffuse_dials.kernels.options import INLINE
from diffuse_dials.kernels.pieces import BLOCK, PIECE, TOGETHER

LANES = 16  # elements of a vector
LINE = 64  # bytes of memory that come into the cache together


@intrinsic
def trailing_zeros(typing_context, word):
    """Number of the lowest bit of a word of 64 bits that is set; 64 of 0."""

    def build(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 0))

    return types.uint64(types.uint64), build


@intrinsic
def ones(typing_context, word):
    """Number of bits of a word of 64 bits that are set."""

    def build(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.uint64(types.uint64), build


@intrinsic
def prefetch(typing_context, values, at):
    """Ask for an element of a contiguous array, by its number in memory, that is to be read or written soon."""

    def build(context, builder, signature, args):
        place = builder.bitcast(_place(context, builder, signature, args, 0, 1), ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [place.type, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(function, [place, flag(0), flag(3), flag(1)])  # to read, into all caches, data
        return context.get_dummy_value()

    return types.void(values, types.uint64), build


@intrinsic
def changes(typing_context, values, at):
    """Bits of the 64 elements of an array of int32 after number ``at`` that differ from the one before them."""

    def build(context, builder, signature, args):
        before = _place(context, builder, signature, args, 0, 1)
        after = builder.gep(before, [ir.Constant(ir.IntType(64), 1)])
        vector = ir.VectorType(ir.IntType(32), 64)
        before, after = (builder.load(builder.bitcast(p, vector.as_pointer()), align=4) for p in (before, after))
        return builder.bitcast(builder.icmp_signed("!=", before, after), ir.IntType(64))

    return types.uint64(values, types.int64), build


@intrinsic
def are_set(typing_context, values):
    """Bits of the first BLOCK elements of an array of int32 that are not 0."""

    def build(context, builder, signature, args):
        data = context.make_array(signature.args[0])(context, builder, args[0]).data
        vector = ir.VectorType(ir.IntType(32), BLOCK)
        found = builder.load(builder.bitcast(data, vector.as_pointer()), align=4)
        found = builder.icmp_signed("!=", found, ir.Constant(vector, [0] * BLOCK))
        return builder.zext(builder.bitcast(found, ir.IntType(BLOCK)), ir.IntType(64))

    return types.uint64(values), build


@intrinsic
def set_bits(typing_context, numbers, begin, first, stop, words, at):
    """Set bit ``number % 64`` in each of TOGETHER words, where its number is from ``first`` on and below ``stop``.

    Args:
        numbers, begin: Array of int32, none of them negative, and which of its elements is the first number.
        first, stop: int32.
        words, at: Array of uint64, and which of its elements is the first word.
    """

    def build(context, builder, signature, args):
        small, large = ir.VectorType(ir.IntType(32), TOGETHER), ir.VectorType(ir.IntType(64), TOGETHER)
        source = _place(context, builder, signature, args, 0, 1)
        found = builder.load(builder.bitcast(source, small.as_pointer()), align=4)
        first, stop = (_spread(builder, value, small) for value in args[2:4])
        inside = builder.and_(builder.icmp_signed(">=", found, first), builder.icmp_signed("<", found, stop))
        bit = builder.and_(found, ir.Constant(small, [63] * TOGETHER))
        bit = builder.shl(ir.Constant(large, [1] * TOGETHER), builder.zext(bit, large))
        bit = builder.select(inside, bit, ir.Constant(large, [0] * TOGETHER))
        target = builder.bitcast(_place(context, builder, signature, args, 4, 5), large.as_pointer())
        builder.store(builder.or_(builder.load(target, align=8), bit), target, align=8)
        return context.get_dummy_value()

    return types.none(numbers, types.int64, types.int32, types.int32, words, types.int64), build


@intrinsic
def or_into(typing_context, values, at, into):
    """Add the bits of TOGETHER elements of an array of int32, from number ``at`` on, to those of another."""

    def build(context, builder, signature, args):
        vector = ir.VectorType(ir.IntType(32), TOGETHER).as_pointer()
        source = builder.bitcast(_place(context, builder, signature, args, 0, 1), vector)
        target = context.make_array(signature.args[2])(context, builder, args[2]).data
        target = builder.bitcast(target, vector)
        both = builder.or_(builder.load(source, align=4), builder.load(target, align=4))
        builder.store(both, target, align=4)
        return context.get_dummy_value()

    return types.none(values, types.int64, into), build


def _running_sums(n: int):
    """What ``running_sums`` does for n elements, a multiple of LANES."""
    word, vector = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)
    zeros = ir.Constant(vector, [0] * LANES)

    def chosen(elements) -> ir.Constant:
        return ir.Constant(vector, [LANES if i is None else i for i in elements])  # number LANES: 0 of ``zeros``

    # What is added to each element: the one before it in its quarter, then the one two before it; then the last one of
    # the quarter before, and of two before. Within a quarter elements move at a third of the cost.
    q = LANES // 4
    moves = [chosen(i - back if i % q >= back else None for i in range(LANES)) for back in (1, 2)]
    moves += [chosen((i // q - back + 1) * q - 1 if i // q >= back else None for i in range(LANES)) for back in (1, 2)]

    @intrinsic
    def sums(typing_context, values, at, total, out, to):
        dtype = values.dtype

        def build(context, builder, signature, args):
            source = _place(context, builder, signature, args, 0, 1)
            source = builder.bitcast(source, ir.VectorType(source.type.pointee, LANES).as_pointer())
            target = builder.bitcast(_place(context, builder, signature, args, 3, 4), vector.as_pointer())
            before = _spread(builder, args[2], vector)
            for i in range(n // LANES):
                number = [ir.Constant(word, i)]
                found = builder.load(builder.gep(source, number), align=dtype.bitwidth // 8)
                if not isinstance(dtype, types.Integer):
                    found = builder.fptosi(found, vector)
                elif dtype.bitwidth < 32:
                    found = (builder.sext if dtype.signed else builder.zext)(found, vector)
                elif dtype.bitwidth > 32:
                    found = builder.trunc(found, vector)
                for move in moves:
                    found = builder.add(found, builder.shuffle_vector(found, zeros, move))
                found = builder.add(found, before)
                builder.store(found, builder.gep(target, number), align=4)
                before = builder.shuffle_vector(found, found, chosen([LANES - 1] * LANES))
            return builder.extract_element(before, ir.Constant(word, 0))

        return types.uint32(values, types.int64, types.uint32, out, types.int64), build

    return sums


_of_vector, _of_piece = _running_sums(LANES), _running_sums(PIECE)


@njit(**INLINE)
def running_sums(values, at, n, total, out, to):
    """Running sums of elements of an array, modulo 2³².

    Args:
        values, at, n: Array of whole numbers (of others the result has no meaning), number of the first element to
            take, and how many, up to PIECE.
        total: What to begin with, uint32.
        out, to: Array of uint32, and the number of the first element to write.

    Returns:
        The last of them, uint32.
    """
    if n == PIECE:
        return _of_piece(values, at, total, out, to)
    together = n // LANES * LANES
    for i in range(0, together, LANES):
        total = _of_vector(values, at + i, total, out, to + i)
    flat = out.reshape(out.size)
    for i in range(together, n):
        total = np.uint32(total + np.uint32(values[np.uint64(at + i)]))
        flat[np.uint64(to + i)] = total
    return total


def _place(context, builder, signature, args, array: int, number: int):
    """Pointer to an element of an argument that is an array, where another argument says which."""
    data = context.make_array(signature.args[array])(context, builder, args[array]).data
    return builder.gep(data, [args[number]])


def _spread(builder, value, vector):
    """A vector all of whose elements are a value."""
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, first, zeros)
