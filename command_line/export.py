# LIBTBX_SET_DISPATCHER_NAME diffuse.export
from __future__ import annotations

from diffuse_dials.cli.export import run

if __name__ == "__main__":
    run()
