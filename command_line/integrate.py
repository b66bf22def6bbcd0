# LIBTBX_SET_DISPATCHER_NAME diffuse.integrate
from __future__ import annotations

from diffuse_dials.cli.integrate import run

if __name__ == "__main__":
    run()
