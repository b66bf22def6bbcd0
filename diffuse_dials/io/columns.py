"""The columns of our .refl files: name, type and meaning, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of a reflection table.

    Attributes:
        name: As it stands in the file.
        kind: flex type: int, size_t, bool, double, vec3_double or miller_index.
        meaning: What it holds, with its unit.
    """

    name: str
    kind: str
    meaning: str


_ALL = (
    Column("id", "int", "number of the experiment in the .expt file written with the table"),
    Column("panel", "size_t", "panel of the detector"),
    Column("miller_index", "miller_index", "voxel index n; h = n / ndiv"),
    Column("asu_miller_index", "miller_index", "the equivalent voxel in the asymmetric unit of the Laue group"),
    Column(
        "xyzobs.px.value", "vec3_double", "fast and slow pixel coordinate (a pixel's centre is its index + 0.5) and 0"
    ),
    Column("rlp", "vec3_double", "s = s1 - s0, |s| = 1/d (1/Å); pixels in the laboratory, voxels in the crystal frame"),
    Column("hkl", "vec3_double", "fractional Miller index, n / ndiv"),
    Column("d", "double", "resolution 1/|s| (Å)"),
    Column("s", "double", "|s| at the centre of a radial bin (1/Å)"),
    Column("counts", "double", "photons"),
    Column("background", "double", "photons that did not come from the crystal"),
    Column("response", "double", "solid angle x polarization x efficiency x transmission x exposure time (sr s)"),
    Column("variance", "double", "variance of counts - background (photons squared)"),
    Column("n_pixels", "int", "pixels in the sum"),
    Column("n_overloaded", "int", "pixels left out because they were overloaded"),
    Column("bragg", "bool", "True: removed by the Bragg mask, and by nothing else"),
    Column("inverse_scale_factor", "double", "scale of the still: counts - background = scale x response x intensity"),
    Column("flags", "size_t", "1: outlier, left out of the merging"),
    Column("intensity.scale.value", "double", "relative diffuse intensity"),
    Column("intensity.scale.variance", "double", "its variance"),
    Column("intensity.scatter.variance", "double", "the same from the scatter of the stills; -1 for fewer than two"),
    Column("intensity.half1.value", "double", "the same from the first random half of the stills"),
    Column("intensity.half1.variance", "double", "its variance"),
    Column("intensity.half2.value", "double", "the same from the other half of the stills"),
    Column("intensity.half2.variance", "double", "its variance"),
    Column("intensity.all.value", "double", "relative intensity, pixels under the Bragg mask included"),
    Column("intensity.all.variance", "double", "its variance by the scatter between stills; -1 for a single still"),
    Column("multiplicity.all", "int", "stills with pixels in the voxel, under the Bragg mask or not"),
    Column("multiplicity", "int", "stills that measured the voxel"),
    Column("multiplicity.half1", "int", "stills of the first half that measured the voxel"),
    Column("multiplicity.half2", "int", "stills of the other half that measured the voxel"),
    Column("lattice_point", "bool", "True: the voxel holds a lattice point"),
    Column("intensity.absolute.value", "double", "coherent diffuse intensity (electrons squared per unit cell)"),
    Column("intensity.absolute.variance", "double", "its variance, without the common error of the scale"),
    Column(
        "intensity.incoherent.value",
        "double",
        "Compton scattering that was subtracted (electrons squared per unit cell)",
    ),
    Column("intensity.coherent.value", "double", "sum of f0 squared over the atoms of the cell (electrons squared)"),
)
COLUMNS = {column.name: column for column in _ALL}

EXTRACTED = ("id", "panel", "xyzobs.px.value", "rlp", "counts", "background", "response", "variance", "bragg")
GRIDDED = (
    "id", "miller_index", "asu_miller_index", "panel", "bragg",
    "counts", "background", "response", "variance", "n_pixels",
)  # fmt: skip
RADIAL_TOTALS = ("id", "panel", "s", "counts", "background", "response", "variance", "n_pixels", "n_overloaded")
SCALED = (*GRIDDED, "inverse_scale_factor", "flags")
MERGED = (
    "id", "miller_index", "hkl", "rlp", "d", "intensity.scale.value", "intensity.scale.variance",
    "intensity.scatter.variance", "multiplicity", "n_pixels",
    "intensity.half1.value", "intensity.half1.variance", "multiplicity.half1",
    "intensity.half2.value", "intensity.half2.variance", "multiplicity.half2",
    "intensity.all.value", "intensity.all.variance", "multiplicity.all", "lattice_point",
)  # fmt: skip
ABSOLUTE = (
    *MERGED,
    "intensity.absolute.value", "intensity.absolute.variance",
    "intensity.incoherent.value", "intensity.coherent.value",
)  # fmt: skip
