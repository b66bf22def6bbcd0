"""What is done to single pixels and sums: NumPy in, NumPy out.

Numba keeps compiled code in ``__pycache__`` and compiles a function anew when its own file has changed, but not when a
file has changed whose functions it calls. So the code of other sources than the present ones is removed here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path


def forget_code_of_other_sources(folder: Path) -> None:
    """Remove numba's compiled code from a folder's ``__pycache__`` if a source file there has changed since.

    Where nothing can be written, numba keeps its code for each user elsewhere; such a folder changes only as a whole,
    when a new version is installed.
    """
    digest = hashlib.sha256()
    for source in sorted(folder.glob("*.py")):
        digest.update(source.read_bytes())
    cache = folder / "__pycache__"
    stamp = cache / "sources.sha256"
    try:
        if stamp.is_file() and stamp.read_text(encoding="ascii") == digest.hexdigest():
            return
        cache.mkdir(exist_ok=True)
        for kept in (*cache.glob("*.nbi"), *cache.glob("*.nbc")):
            kept.unlink(missing_ok=True)  # another process may be at it too
        stamp.write_text(digest.hexdigest(), encoding="ascii")
    except OSError:
        return


forget_code_of_other_sources(Path(__file__).parent)
