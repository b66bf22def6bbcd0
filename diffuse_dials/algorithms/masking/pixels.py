"""Pixels that no still should use."""

from __future__ import annotations

DYNAMIC_PHIL = """
dynamic {
  enabled = True
    .type = bool
    .help = "Find hot, dead and negative pixels by comparing them with their neighbours over many stills."
  n_images = 60
    .type = int(value_min=1)
    .help = "Number of images read for it, spread evenly over those given; Auto: all. With fewer than three, hot pixels"
            "cannot be told from Bragg spots and are left alone."
}
"""
