"""One module per command."""

from __future__ import annotations

from diffuse_dials.adapters.environment import require_dials

require_dials()
