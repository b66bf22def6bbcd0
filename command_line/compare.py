# LIBTBX_SET_DISPATCHER_NAME diffuse.compare
from __future__ import annotations

from diffuse_dials.cli.compare import run

if __name__ == "__main__":
    run()
