# LIBTBX_SET_DISPATCHER_NAME diffuse.simulate
from __future__ import annotations

from diffuse_dials.cli.simulate import run

if __name__ == "__main__":
    run()
