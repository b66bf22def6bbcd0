"""One module per command."""

from __future__ import annotations

import atexit
import gc

from diffuse_dials.adapters.environment import load_late, require_dials

# What the modules of DIALS make stays to the end. Python would look through it for reference cycles while it grows, and
# for half a second when it is no longer needed.
gc.disable()  # until cli.startup, which commands import after all that is large
atexit.register(gc.freeze)

load_late()  # before anything imports dials
require_dials()
