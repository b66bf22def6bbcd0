"""mdx2's ImageSeries.index and HKLTable.bin, as mdx2.integrate calls them, for tools/bench.py.

Run by a Python that has mdx2:

    bench_mdx2.py FILE      (.npz: counts (slow, fast); phi, iy, ix, hkl (n_phi, n_y, n_x, 3), fractional indices on
                             the coarse grid that mdx2.import_geometry makes; ndiv)

For each line on standard input it prints the CPU seconds of one image: "chunks", 20 images of 211 x 493 pixels at a
time, or "frame", one whole image at once. Reading, masks, corrections and symmetry are not in them.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from mdx2.data import ImageSeries
from mdx2.geometry import MillerIndex

N_IMAGES, CHUNK = 20, (211, 493)
DEGREES = 0.1  # an image


def main() -> None:
    given = np.load(sys.argv[1])
    counts, hkl, ndiv = given["counts"], given["hkl"], tuple(int(n) for n in given["ndiv"])
    miller = MillerIndex(given["phi"], given["iy"], given["ix"], *(hkl[..., i] for i in range(3)))

    def series(n_images, rows, columns):
        data = np.repeat(counts[None, rows, columns], n_images, axis=0)
        axes = np.arange(counts.shape[0])[rows], np.arange(counts.shape[1])[columns]
        return ImageSeries(DEGREES * np.arange(n_images), *axes, data, np.ones(n_images))

    parts = {"frame": [series(1, slice(None), slice(None))], "chunks": []}
    for share in (0.1, 0.3, 0.5, 0.7):  # from the edge of the detector across its middle
        first = [int(share * n) for n in counts.shape]
        parts["chunks"].append(series(N_IMAGES, *(slice(f, f + n) for f, n in zip(first, CHUNK))))

    for line in sys.stdin:
        part = parts[line.strip()]
        start = time.process_time()
        for images in part:
            table = images.index(miller)
            table.ndiv = ndiv
            table.bin(count_name="pixels")
        n_pixels = sum(images.data.size for images in part)
        print((time.process_time() - start) / n_pixels * counts.size, flush=True)


if __name__ == "__main__":
    main()
