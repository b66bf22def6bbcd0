"""Compiled code that numba keeps is never that of other sources."""

from __future__ import annotations

import os
import subprocess
import sys

from diffuse_dials.kernels import forget_code_of_other_sources

INNER = "from numba import njit\n\n@njit(cache=True)\ndef inner(x):\n    return x + {}\n"
OUTER = "from numba import njit\nfrom inner import inner\n\n@njit(cache=True)\ndef outer(x): return 10 * inner(x)\n"


def test_a_change_of_a_file_reaches_the_functions_that_call_it(tmp_path):
    """numba alone goes on with the old code: it looks at the caller's own file."""
    (tmp_path / "outer.py").write_text(OUTER)
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    for added in (1, 2, 2):
        (tmp_path / "inner.py").write_text(INNER.format(added))
        before = set(tmp_path.glob("__pycache__/*.nbc"))
        forget_code_of_other_sources(tmp_path)
        kept = set(tmp_path.glob("__pycache__/*.nbc"))
        call = [sys.executable, "-c", "from outer import outer; print(outer(5))"]
        done = subprocess.run(call, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) == 10 * (5 + added)
    assert kept == before and len(kept) == 2  # the sources were the same the last time
