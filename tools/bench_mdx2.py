"""mdx2's ImageSeries.index and HKLTable.bin on an image: for tools/bench.py, run by a Python that has mdx2.

    bench_mdx2.py FILE      (.npz: counts (slow, fast); ix, iy, hkl (n_y, n_x, 3), fractional indices on a coarse grid)

Prints the CPU seconds of one image: in chunks of 211 x 493 pixels of 20 images, mdx2's default, and one whole frame.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
from mdx2.data import ImageSeries
from mdx2.geometry import MillerIndex

N_IMAGES, CHUNK = 20, (211, 493)


def main() -> None:
    given = np.load(sys.argv[1])
    counts, hkl, ndiv = given["counts"], given["hkl"], tuple(int(n) for n in given["ndiv"])
    coarse = np.repeat(hkl[None], 2, axis=0)
    phi = np.linspace(0.0, 1.0, N_IMAGES)
    miller = MillerIndex(phi[[0, -1]], given["iy"], given["ix"], *(coarse[..., i] for i in range(3)))

    def seconds(n_images, rows, columns):
        data = np.repeat(counts[None, rows, columns], n_images, axis=0)
        axes = np.arange(counts.shape[0])[rows], np.arange(counts.shape[1])[columns]
        series = ImageSeries(phi[:n_images], *axes, data, np.ones(n_images))
        start = time.process_time()
        table = series.index(miller)
        table.ndiv = ndiv
        table.bin(count_name="pixels")
        return (time.process_time() - start) / data.size * counts.size

    chunks = []
    for share in (0.1, 0.3, 0.5, 0.7):  # from the edge of the detector across its middle
        first = [int(share * n) for n in counts.shape]
        chunks.append(seconds(N_IMAGES, *(slice(f, f + n) for f, n in zip(first, CHUNK))))
    print(json.dumps({"chunks": float(np.mean(chunks)), "frame": seconds(1, slice(None), slice(None))}))


if __name__ == "__main__":
    main()
