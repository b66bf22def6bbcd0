# LIBTBX_SET_DISPATCHER_NAME diffuse.make_mask
from __future__ import annotations

from diffuse_dials.cli.make_mask import run

if __name__ == "__main__":
    run()
