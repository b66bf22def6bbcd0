# LIBTBX_SET_DISPATCHER_NAME diffuse.process
from __future__ import annotations

from diffuse_dials.cli.process import run

if __name__ == "__main__":
    run()
