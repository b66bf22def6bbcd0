"""One module per command."""

from __future__ import annotations

import atexit
import gc

from diffuse_dials.adapters.environment import load_late, require_dials, use_one_thread

use_one_thread()  # before anything imports NumPy
load_late()  # before anything imports dials
require_dials()

# As it ends, Python looks three times for reference cycles among all objects of DIALS, for half a second: it need not.
atexit.register(gc.freeze)
