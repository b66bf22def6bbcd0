# LIBTBX_SET_DISPATCHER_NAME diffuse.scale
from __future__ import annotations

from diffuse_dials.cli.scale import run

if __name__ == "__main__":
    run()
