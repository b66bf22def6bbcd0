"""Pages of diffuse.report, one file each; another package adds one by an entry point (diffuse_dials.report_pages)."""

from __future__ import annotations

from diffuse_dials.plugins import with_plugins
from diffuse_dials.report.pages.absolute import Absolute
from diffuse_dials.report.pages.integration import Integration
from diffuse_dials.report.pages.map import Map
from diffuse_dials.report.pages.pixels import Pixels
from diffuse_dials.report.pages.scaling import Scaling

PAGES = with_plugins("diffuse_dials.report_pages", (Integration, Pixels, Scaling, Absolute, Map))
