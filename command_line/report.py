# LIBTBX_SET_DISPATCHER_NAME diffuse.report
from __future__ import annotations

from diffuse_dials.cli.report import run

if __name__ == "__main__":
    run()
