"""One module per command."""

from __future__ import annotations

from diffuse_dials.adapters.environment import load_late, require_dials

load_late()  # before anything imports dials
require_dials()
