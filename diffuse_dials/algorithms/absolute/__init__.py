"""From relative intensities to squared electrons per unit cell (docs/absolute.md).

composition.py says what the cell holds, theory.py how that must scatter, totals.py how the crystal did scatter,
methods/ compare the two, scale.py applies what comes out.
"""

from __future__ import annotations
