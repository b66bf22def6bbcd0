"""What a processor does with several numbers at once, where the compiler does not find it by itself."""

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

LANES, PIECE = 16, 128


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


def _running_sums(n: int):
    """Function for the running sums of n elements, a multiple of LANES."""
    word, vector = ir.IntType(32), ir.VectorType(ir.IntType(32), LANES)
    nothing = ir.Constant(vector, [0] * LANES)

    def choose(elements) -> ir.Constant:  # of two vectors, the second one's first for None
        return ir.Constant(vector, [LANES if i is None else i for i in elements])

    # to each element what is one and two before it in its quarter, then the ends of the quarter before and of two before
    q = LANES // 4
    steps = [[i - back if i % q >= back else None for i in range(LANES)] for back in (1, 2)]
    steps += [[(i // q - back) * q + q - 1 if i // q >= back else None for i in range(LANES)] for back in (1, 2)]

    @intrinsic
    def running_sums(typing_context, values, at, total, out, to):
        dtype = values.dtype

        def build(context, builder, signature, args):
            source = _place(context, builder, signature, args, 0, 1)
            target = builder.bitcast(_place(context, builder, signature, args, 3, 4), vector.as_pointer())
            source = builder.bitcast(source, ir.VectorType(source.type.pointee, LANES).as_pointer())
            first = builder.insert_element(ir.Constant(vector, ir.Undefined), args[2], ir.Constant(word, 0))
            before = builder.shuffle_vector(first, first, nothing)
            for i in range(n // LANES):
                number = [ir.Constant(word, i)]
                found = builder.load(builder.gep(source, number), align=dtype.bitwidth // 8)
                if not isinstance(dtype, types.Integer):
                    found = builder.fptosi(found, vector)
                elif dtype.bitwidth < 32:
                    found = (builder.sext if dtype.signed else builder.zext)(found, vector)
                elif dtype.bitwidth > 32:
                    found = builder.trunc(found, vector)
                for step in steps:
                    found = builder.add(found, builder.shuffle_vector(found, nothing, choose(step)))
                found = builder.add(found, before)
                builder.store(found, builder.gep(target, number), align=4)
                before = builder.shuffle_vector(found, found, choose([LANES - 1] * LANES))
            return builder.extract_element(before, ir.Constant(word, 0))

        return types.uint32(values, types.int64, types.uint32, out, types.int64), build

    return running_sums


running_sums, running_sums_of_piece = _running_sums(LANES), _running_sums(PIECE)


def _place(context, builder, signature, args, array: int, number: int):
    """Pointer to an element of an argument that is an array, where another argument says which."""
    data = context.make_array(signature.args[array])(context, builder, args[array]).data
    return builder.gep(data, [args[number]])
