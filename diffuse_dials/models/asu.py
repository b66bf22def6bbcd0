"""Numbers of the asymmetric unit's voxels, the same in every process, file and run on one grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class AsuBox:
    """The box of voxel indices that the asymmetric unit lies in; a voxel's number is its place in the box.

    Attributes:
        low: Smallest index on each axis.
        shape: Number of indices on each axis.
    """

    low: tuple[int, int, int]
    shape: tuple[int, int, int]

    @property
    def size(self) -> int:
        """Number of voxels in the box, most of them outside the asymmetric unit or the resolution limit."""
        return self.shape[0] * self.shape[1] * self.shape[2]

    def check(self) -> None:
        """Refuse a box that int32 cannot number.

        Raises:
            ValueError: If it holds 2³¹ voxels or more.
        """
        if self.size >= 2**31:
            raise ValueError(
                f"The map would span {' x '.join(map(str, self.shape))} voxels, more than 2147483647. "
                "Use a smaller grid.ndiv or a larger d_min."
            )

    def number(self, index: np.ndarray) -> np.ndarray:
        """Number of each voxel; numbers sort as the indices do.

        Args:
            index: Representatives under the Laue group, shape (n, 3), int32.

        Returns:
            Shape (n,), int32.

        Raises:
            ValueError: If an index lies outside the box.
        """
        shifted = index.astype(np.int64) - np.asarray(self.low)
        if len(index) and (shifted.min() < 0 or np.any(shifted.max(axis=0) >= self.shape)):
            raise ValueError(
                f"A voxel lies outside {self.low} + {self.shape}, the limits of this grid: a still's cell or detector "
                "differs from the others by too much. Look at the cells in stills.csv."
            )
        return ((shifted[:, 0] * self.shape[1] + shifted[:, 1]) * self.shape[2] + shifted[:, 2]).astype(np.int32)

    def index(self, number: np.ndarray) -> np.ndarray:
        """Voxel index of each number, shape (n, 3), int32."""
        return (np.stack(np.unravel_index(number, self.shape), axis=1) + np.asarray(self.low)).astype(np.int32)
