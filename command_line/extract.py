# LIBTBX_SET_DISPATCHER_NAME diffuse.extract
from __future__ import annotations

from diffuse_dials.cli.extract import run

if __name__ == "__main__":
    run()
