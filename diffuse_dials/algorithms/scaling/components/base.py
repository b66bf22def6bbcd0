"""What a component of the scaling model is: a class of DIALS for one experiment, and how all stills refine it together.

A component is one of three kinds, by what it may depend on:

* "still": ln factor = Σ_j θ_ij basis_j(|s|), parameters of each still;
* "detector": factor = Σ_j weights(cell, j) θ_j, parameters shared by all stills;
* "offset": added intensity = Σ_j θ_ij basis_j(|s|), parameters of each still.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from dials.algorithms.scaling.model.components.scale_components import ScaleComponentBase
from dials.array_family import flex
from scipy import sparse


@dataclass(frozen=True)
class Layout:
    """What the components of one run of scaling may depend on.

    Attributes:
        s: |s| of each shell, shape (n_shells,), 1/Å.
        intensity: Mean intensity of each shell, same shape: the size that an offset can have.
        cells: Cells of the detector, or None.
        options: PHIL extract of ``scale``.
        s_max: Largest |s| of the run, 1/Å.
    """

    s: np.ndarray
    intensity: np.ndarray
    cells: object
    options: object
    s_max: float


class Component:
    """Mixed into a component class of DIALS; registered in ``SCALE_COMPONENTS``.

    Attributes:
        name: Name in the model and in parameters.
        kind: "still", "detector" or "offset".
        experimental: Whether it needs scale.experimental_scale_model=True.
        phil: Its parameters, inside ``scale``.
        column: What DIALS's own engines hand it of a reflection table; None: it is not refined by them.
    """

    name: ClassVar[str]
    kind: ClassVar[str]
    experimental: ClassVar[bool] = True
    phil: ClassVar[str] = ""
    column: ClassVar[str | None] = None

    @classmethod
    def columns(cls, layout: Layout):
        """The basis: of stills and offsets (n_shells, k); of the detector's cells a sparse matrix (n_cells, k).

        Raises:
            TypeError: If the sub-class has none: it can be applied, not refined.
        """
        raise TypeError(f"{cls.__name__} has no columns().")

    @classmethod
    def null(cls, layout: Layout, k: int) -> np.ndarray:
        """Parameters that change nothing, shape (k,)."""
        return np.ones(k) if cls.kind == "detector" else np.zeros(k)

    @classmethod
    def precision(cls, layout: Layout, k: int) -> np.ndarray:
        """Restraint: inverse covariance of the parameters about :meth:`null`, shape (k, k)."""
        return np.zeros((k, k))

    @classmethod
    def stored(cls, parameters: np.ndarray, esds: np.ndarray, layout: Layout):
        """The component of one experiment, a class of DIALS, from refined parameters (k,)."""
        return cls(flex.double(parameters), flex.double(esds))

    def radial_factor(self, panel: np.ndarray, s: np.ndarray):
        """Its factor of a still's radial sums, for diffuse.absolute: sums over a panel and a bin of |s|.

        Args:
            panel: Panel of each sum, shape (n,), int.
            s: |s| of each sum, shape (n,), 1/Å.

        Returns:
            Factor, shape (n,) or a number.

        Raises:
            ValueError: If the component does not say, or the sums are of another detector.
        """
        raise ValueError(
            f"The scaling model has a component {self.name}, which diffuse.absolute cannot apply to the radial totals. "
            "Scale without it."
        )

    def configuration(self) -> dict:
        """What :meth:`restore` needs besides the parameters, as JSON can hold it."""
        return {}

    @classmethod
    def restore(cls, parameters, esds, configuration: dict):
        """The component that was written to a file."""
        return cls(parameters, esds)


class Stacked(ScaleComponentBase):
    """One component of all stills, as DIALS's parameter managers take it: a flat list of parameters.

    Attributes:
        component: The registered class.
        columns: Its basis.
        null: Its parameters where it changes nothing, shape (k,).
        precision: Its restraint, shape (k, k).
    """

    def __init__(self, component: type[Component], layout: Layout, n_stills: int):
        self.component = component
        self.columns = component.columns(layout)
        k = self.columns.shape[1]
        self.null, self.precision = component.null(layout, k), component.precision(layout, k)
        self._rows = 1 if component.kind == "detector" else n_stills
        super().__init__(flex.double(np.tile(self.null, self._rows)))

    @property
    def name(self) -> str:
        return self.component.name

    @property
    def kind(self) -> str:
        return self.component.kind

    @property
    def values(self) -> np.ndarray:
        """Parameters, shape (n_stills, k); (1, k) for the detector."""
        return self.parameters.as_numpy_array().reshape(self._rows, -1)

    @values.setter
    def values(self, values: np.ndarray) -> None:
        self.parameters = flex.double(np.ascontiguousarray(values, dtype=float).ravel())

    @property
    def n_refl(self) -> list[int]:
        """DIALS compares it between components; the observations are not the component's."""
        return [1]

    def table(self) -> np.ndarray:
        """ln factor or offset of stills and shells (n_stills, n_shells); factor of the cells (n_cells,)."""
        if self.kind == "detector":
            return np.maximum(np.asarray(self.columns @ self.values[0]).ravel(), 1e-3)
        return self.values @ self.columns.T

    def derivatives(self):
        """Derivatives of ln factor, or of the offset: the basis; for the detector (n_cells, k), sparse."""
        if self.kind == "detector":
            return sparse.diags(1 / self.table()) @ self.columns
        return self.columns
