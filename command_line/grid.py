# LIBTBX_SET_DISPATCHER_NAME diffuse.grid
from __future__ import annotations

from diffuse_dials.cli.grid import run

if __name__ == "__main__":
    run()
