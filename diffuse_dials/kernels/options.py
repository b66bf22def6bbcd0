"""How numba compiles the functions of this package."""

from __future__ import annotations

OPTIONS = {"nogil": True, "cache": True, "error_model": "numpy", "fastmath": {"contract"}}
# Numba counts references to each array that a function gets or takes from a tuple: two locked instructions a call.
# Functions that make no arrays, and return none, need not.
BORROW = {**OPTIONS, "_nrt": False}
INLINE = {**BORROW, "forceinline": True}  # for each piece: a call that passes arrays costs more than the work itself
