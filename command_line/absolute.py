# LIBTBX_SET_DISPATCHER_NAME diffuse.absolute
from __future__ import annotations

from diffuse_dials.cli.absolute import run

if __name__ == "__main__":
    run()
