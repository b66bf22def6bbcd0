"""Sections through a map at any h, k or l, in a page: with a slider, and the isotropic part removed by a button.

The page holds the voxels of the asymmetric unit, a byte each, and templates/slices.js fills in the symmetry mates.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
from dataclasses import dataclass, field

import numpy as np

from diffuse_dials.report.graphs import DIVERGING, MISSING, SEQUENTIAL, finite
from diffuse_dials.report.plots import PLANES, VoxelFrame

_LEVELS = 254  # of a byte; 0 is "not measured"
_CUT = 0.001  # part of the values at either end that the byte does not tell apart
_CURVE = 300  # points of the isotropic part
_MOST_VOXELS = 1_800_000  # of the asymmetric unit: a byte each and quantity, hardly compressed
_MOST_IN_BOX = 20_000_000  # with symmetry mates, 4 bytes each in the browser


@dataclass(frozen=True)
class Quantity:
    """What is drawn of each voxel.

    Attributes:
        name: As the user chooses it.
        label: With its unit, beside the colours.
        values: Shape (n,), finite.
        limits: Of the colours.
        signed: Whether the values scatter about zero.
        isotropic: |s| (1/Å) and mean intensity of a curve that a button adds to the values, or None.
        whole_limits: Of the colours when it is added.
    """

    name: str
    label: str
    values: np.ndarray
    limits: tuple[float, float]
    signed: bool = False
    isotropic: tuple[np.ndarray, np.ndarray] | None = None
    whole_limits: tuple[float, float] | None = None

    @classmethod
    def intensity(cls, name: str, label: str, values, s, isotropic) -> Quantity:
        """An intensity with its isotropic part, colours by quantiles: 1 and 99 %, or 98 % without the isotropic part.

        Args:
            name, label: As the attributes.
            values: Shape (n,), finite, n > 0.
            s: |s|, same shape, 1/Å.
            isotropic: The isotropic part at each voxel, same shape.
        """
        rest = values - isotropic
        high = float(np.quantile(np.abs(rest), 0.98)) or 1.0
        low, top = (float(q) for q in np.quantile(values, (0.01, 0.99)))
        order = np.argsort(s)
        grid = np.linspace(s[order[0]], s[order[-1]], _CURVE)
        curve = np.interp(grid, s[order], isotropic[order])
        return cls(name, label, rest, (-high, high), True, (grid, curve), (low, top if top > low else low + 1))


@dataclass(frozen=True)
class Slices:
    """A map that a page cuts at any plane of constant h, k or l.

    Attributes:
        title: Of the picture.
        index: Voxels n of the asymmetric unit, shape (n, 3), ascending in h, k, l.
        frame: Grid and symmetry.
        quantities: What can be drawn, the first to begin with.
        shown: How many voxels of the map that is, and to which resolution, where it had to be cut; else empty.
    """

    title: str
    index: np.ndarray
    frame: VoxelFrame
    quantities: tuple[Quantity, ...] = field(repr=False)
    shown: str = ""

    @property
    def basis(self) -> np.ndarray:
        """Steps from voxel to voxel along h, k and l as rows, shape (3, 3), 1/Å."""
        return self.frame.b_matrix.T / np.asarray(self.frame.ndiv, dtype=float)[:, None]

    @property
    def size(self) -> np.ndarray:
        """Largest |n| along each axis, symmetry mates included, shape (3,)."""
        return box_size(self.index, self.frame)

    @property
    def s_max(self) -> float:
        """Largest |s| of a voxel's centre, and half a voxel, 1/Å."""
        lengths = np.linalg.norm(self.basis, axis=1)
        return float(np.linalg.norm(self.index @ self.basis, axis=1).max() + lengths.max() / 2)

    def section(self, plane: str, layer: int = 0, number: int = 0, whole: bool = True):
        """A section as the page draws it.

        x runs along the reciprocal axis of the first index that varies, y normal to it within the plane; each row is a
        row of voxels, and where rows are shifted against one another x is divided finer than a voxel.

        Args:
            plane: hk0, h0l or 0kl: which index is constant.
            layer: Its voxel n.
            number: Of the quantity.
            whole: Whether the isotropic part is in it.

        Returns:
            x (n_x,), y (n_y,) in 1/Å and values (n_y, n_x), NaN where not measured.
        """
        axis, quantity, basis, size = PLANES[plane], self.quantities[number], self.basis, self.size
        u, v = (i for i in range(3) if i != axis)
        along = basis[u] / np.linalg.norm(basis[u])
        across = basis[v] - (basis[v] @ along) * along
        across /= np.linalg.norm(across)
        step, rise, shear = basis[u] @ along, basis[v] @ across, (basis[v] @ along) / (basis[u] @ along)
        fine = next((n for n in (1, 2) if abs(n * shear - round(n * shear)) < 1e-3), 4)
        shift_x, shift_y = layer * basis[axis] @ along, layer * basis[axis] @ across
        limit, dx = self.s_max, step / fine
        columns = np.arange(np.ceil((-limit - shift_x) / dx), np.floor((limit - shift_x) / dx) + 1)
        low, high = np.ceil((-limit - shift_y) / rise), np.floor((limit - shift_y) / rise)
        rows = np.arange(max(-size[v], low), min(size[v], high) + 1)
        first = np.floor(columns / fine - rows[:, None] * shear + 0.5 + 1e-9).astype(int)
        inside = np.abs(first) <= size[u]
        layer_rows = self._layer(axis, layer)
        second = np.broadcast_to(rows[:, None].astype(int), first.shape)
        place = np.where(inside, layer_rows[np.where(inside, first, 0) + size[u], second + size[v]], -1)
        values = np.append(quantity.values, np.nan)[place]
        x, y = columns * dx + shift_x, rows * rise + shift_y
        if whole and quantity.isotropic is not None:
            away = layer * basis[axis] @ np.cross(along, across)
            values = values + np.interp(np.sqrt(x**2 + y[:, None] ** 2 + away**2), *quantity.isotropic)
        return x, y, values

    def _layer(self, axis: int, layer: int) -> np.ndarray:
        """Row of each voxel of a layer, −1 where not measured, shape (2 size_u + 1, 2 size_v + 1)."""
        u, v = (i for i in range(3) if i != axis)
        size = self.size
        rows = np.full((2 * size[u] + 1, 2 * size[v] + 1), -1)
        for operator in self.frame.operators:
            moved = self.index.astype(np.int64) @ operator
            here = np.flatnonzero(moved[:, axis] == layer)
            rows[moved[here, u] + size[u], moved[here, v] + size[v]] = here
        return rows

    def plotly(self, plane: str = "hk0", layer: int = 0, number: int = 0, whole: bool = True) -> dict:
        """data and layout of a plotly figure of one section; arguments as in :meth:`section`."""
        x, y, values = self.section(plane, layer, number, whole)
        quantity = self.quantities[number]
        added = whole and quantity.isotropic is not None
        low, high = quantity.whole_limits if added else quantity.limits
        u, v = (letter for i, letter in enumerate("hkl") if i != PLANES[plane])
        axis = {"zeroline": False, "showgrid": False, "constrain": "domain"}
        trace = {
            "type": "heatmap", "x": finite(x), "y": finite(y), "z": [finite(row) for row in values], "zmin": low,
            "zmax": high, "hoverongaps": False, "colorbar": {"title": {"text": quantity.label, "side": "right"}},
            "colorscale": DIVERGING if quantity.signed and not added else SEQUENTIAL,
        }  # fmt: skip
        layout = {
            "title": {"text": f"{self.title}, {plane}: {quantity.name}"}, "height": 680, "template": "none",
            "plot_bgcolor": MISSING, "xaxis": {"title": {"text": f"along {u} (1/Å)"}, **axis},
            "yaxis": {"title": {"text": f"normal to {u}, towards {v} (1/Å)"}, "scaleanchor": "x", **axis},
        }  # fmt: skip
        return {"data": [trace], "layout": layout}

    def html(self) -> str:
        """The part of a page: what the user handles, and the voxels."""
        planes = "".join(f'<option value="{axis}">{name}</option>' for name, axis in PLANES.items())
        names = (html.escape(quantity.name) for quantity in self.quantities)
        what = "".join(f'<option value="{i}">{name}</option>' for i, name in enumerate(names))
        data = json.dumps(self._data(), allow_nan=False, separators=(",", ":"))
        return (
            '<div class="slices"><div class="handles">'
            f'<label>Section <select data-role="plane">{planes}</select></label> '
            '<input data-role="layer" type="range" step="1" value="0" aria-label="layer"> '
            '<output data-role="index"></output> '
            f'<label>of <select data-role="quantity">{what}</select></label> '
            '<button data-role="isotropic" type="button"></button></div>'
            '<div data-role="plot" class="plot"></div><p data-role="pointed">&nbsp;</p></div>'
            f'<script type="application/json" class="slices">{data}</script>'
        )

    def _data(self) -> dict:
        size = self.size.astype(np.int64)
        n_k, n_l = 2 * size[1:] + 1
        h, k, l = (self.index.astype(np.int64) + size).T
        codes = (h * n_k + k) * n_l + l
        steps = np.diff(codes, prepend=0)
        if len(steps) > 1 and steps[1:].min() <= 0:
            raise AssertionError("voxels are not in ascending order")
        return {
            "basis": self.basis.tolist(), "ndiv": list(map(int, self.frame.ndiv)), "size": size.tolist(),
            "operators": self.frame.operators.reshape(-1, 9).astype(int).tolist(), "s_max": self.s_max,
            "steps": _packed(steps.astype("<i4")),
            "quantities": [self._quantity(quantity) for quantity in self.quantities],
        }  # fmt: skip

    @staticmethod
    def _quantity(quantity: Quantity) -> dict:
        low, high, codes = quantised(quantity.values)
        data = {
            "name": quantity.name, "label": quantity.label, "low": low, "high": high, "limits": list(quantity.limits),
            "signed": quantity.signed, "packed": _packed(codes),
        }  # fmt: skip
        if quantity.isotropic is not None:
            s, values = quantity.isotropic
            data["isotropic"] = {"s": s.tolist(), "values": values.tolist()}
            data["whole_limits"] = list(quantity.whole_limits)
        return data


def quantised(values: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Values as bytes: 1 stands for ``low``, 255 for ``high``.

    Returns:
        low, high and the bytes. Whole numbers up to 254 are exact; of others, a thousandth at either end is cut off.
    """
    if np.issubdtype(values.dtype, np.integer) and values.max(initial=0) <= _LEVELS:
        low, high = 0.0, float(_LEVELS)
    else:
        low, high = (float(q) for q in np.quantile(values, (_CUT, 1 - _CUT)))
        high = high if high > low else low + 1
    scaled = np.rint((np.clip(values, low, high) - low) * (_LEVELS / (high - low)))
    return low, high, (scaled + 1).astype(np.uint8)


def box_size(index: np.ndarray, frame: VoxelFrame) -> np.ndarray:
    """Largest |n| along each axis of voxels and their symmetry mates, shape (3,)."""
    moved = (np.abs(index.astype(np.int64) @ operator).max(axis=0) for operator in frame.operators)
    return np.max(list(moved), axis=0)


def fitting(index: np.ndarray, s: np.ndarray, frame: VoxelFrame) -> np.ndarray:
    """The voxels that a page can hold: all, or those up to a resolution.

    Args:
        index: Voxels, shape (n, 3).
        s: |s|, shape (n,), 1/Å.
        frame: Grid and symmetry.

    Returns:
        Mask, shape (n,).
    """
    box = float(np.prod(2.0 * box_size(index, frame) + 1))
    limit = s.max() * np.cbrt(min(1.0, _MOST_IN_BOX / box))
    if len(s) > _MOST_VOXELS:
        limit = min(limit, np.partition(s, _MOST_VOXELS)[_MOST_VOXELS] * (1 - 1e-9))
    return s <= limit


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(gzip.compress(values.tobytes(), compresslevel=9, mtime=0)).decode()
