"""What a processor does with several numbers at once, where the compiler does not find it by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

EIGHT = 8  # elements that ``running_sums`` takes


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
def running_sums(typing_context, values, at, total, out, to):
    """Running sums of EIGHT elements of an array from number ``at`` on, modulo 2³².

    Args:
        values, at: Array of whole numbers (of others the result has no meaning), and int64.
        total: What to begin with, uint32.
        out, to: Array of uint32, and the number of the first element to write, int64.

    Returns:
        The last of them, uint32.
    """
    word, vector = ir.IntType(32), ir.VectorType(ir.IntType(32), EIGHT)

    def build(context, builder, signature, args):
        dtype = signature.args[0].dtype
        source = _place(context, builder, signature, args, 0, 1)
        whole = ir.VectorType(source.type.pointee, EIGHT)
        found = builder.load(builder.bitcast(source, whole.as_pointer()), align=dtype.bitwidth // 8)
        if not isinstance(dtype, types.Integer):
            found = builder.fptosi(found, vector)
        elif dtype.bitwidth < 32:
            found = (builder.sext if dtype.signed else builder.zext)(found, vector)
        elif dtype.bitwidth > 32:
            found = builder.trunc(found, vector)
        for step in (1, 2, 4):  # each element and the one ``step`` before it, 0 before the first
            moved = ir.Constant(ir.VectorType(word, EIGHT), [max(i - step, -1) % (2 * EIGHT) for i in range(EIGHT)])
            found = builder.add(found, builder.shuffle_vector(found, ir.Constant(vector, [0] * EIGHT), moved))
        last = builder.extract_element(found, ir.Constant(word, EIGHT - 1))
        first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], ir.Constant(word, 0))
        found = builder.add(found, builder.shuffle_vector(first, first, ir.Constant(vector, [0] * EIGHT)))
        target = builder.bitcast(_place(context, builder, signature, args, 3, 4), vector.as_pointer())
        builder.store(found, target, align=4)
        return builder.add(args[2], last)  # not taken from what is stored: the next call waits for this

    return types.uint32(values, types.int64, types.uint32, out, types.int64), build


def _place(context, builder, signature, args, array: int, number: int):
    """Pointer to an element of an argument that is an array, where another argument says which."""
    data = context.make_array(signature.args[array])(context, builder, args[array]).data
    return builder.gep(data, [args[number]])
