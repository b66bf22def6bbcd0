"""Each format read back by the library that its users have, held against gemmi's expansion of the same map."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gemmi
import h5py
import iotbx.mtz
import mrcfile
import numpy as np
import pytest

from diffuse_dials.cli.export import run

MAGNIFICATION = 100.0


def measured(written):
    return written.columns["intensity.scale.variance"] >= 0


def check_box(box, start, written, column="intensity.scale.value", keep=None, rel=1e-6):
    """Every voxel of a box [h, k, l] has the value of its row, and NaN (0 in integers) where there is none."""
    rows = written.expanded(measured(written) if keep is None else keep)
    expected = np.full(box.shape, np.nan if box.dtype.kind == "f" else 0, dtype=np.float64)
    for n, row in rows.items():
        expected[tuple(np.subtract(n, start))] = written.columns[column][row]
    np.testing.assert_allclose(box, expected, rtol=rel)


def reciprocal_position(written, n):
    """B h by gemmi's fractionalization matrix, 1/Å."""
    f = np.array(gemmi.UnitCell(*written.record.unit_cell).fractionalization_matrix.tolist())
    return f.T @ (np.array(n) / written.record.ndiv)


def test_a_ccp4_map_opened_by_gemmi_has_values_mates_and_distances_right(written):
    run(["merged.refl", "format=ccp4", "exclude_lattice_points=False", f"ccp4.magnification={MAGNIFICATION}"])
    ccp4 = gemmi.read_ccp4_map("map.ccp4")
    start = [ccp4.header_i32(word) for word in (5, 6, 7)]
    box = np.array(ccp4.grid, copy=False)
    check_box(box, start, written)
    assert ccp4.axis_positions() == [0, 1, 2] and ccp4.grid.spacegroup.hm == "P 1"
    # Where a viewer draws two voxels: their lengths and the angle between them are those of the scattering vectors
    cell = ccp4.grid.unit_cell
    voxels = [n for n in written.full if np.all(np.abs(n) <= -np.array(start))][:: len(written.full) // 7]
    drawn = [np.array(cell.orthogonalize(gemmi.Fractional(*(np.array(n) / box.shape))).tolist()) for n in voxels]
    true = [MAGNIFICATION * reciprocal_position(written, n) for n in voxels]
    np.testing.assert_allclose(np.inner(drawn, drawn), np.inner(true, true), rtol=1e-5, atol=1e-3)


def test_a_ccp4_map_set_up_by_gemmi_for_a_whole_cell_is_found_at_its_indices(written):
    run(["merged.refl", "format=ccp4", "exclude_lattice_points=False"])
    ccp4 = gemmi.read_ccp4_map("map.ccp4")
    ccp4.setup(float("nan"))
    rows = written.expanded(measured(written))
    found = [ccp4.grid.get_value(*n) for n in rows]
    np.testing.assert_allclose(found, written.columns["intensity.scale.value"][list(rows.values())], rtol=1e-6)


def test_a_ccp4_map_is_valid_by_mrcfile_and_says_that_its_statistics_are_unknown(written, capsys):
    run(["merged.refl", "format=ccp4", "exclude_lattice_points=False"])
    assert mrcfile.validate("map.ccp4"), capsys.readouterr().out
    with mrcfile.open("map.ccp4") as mrc:
        start = [int(mrc.header[f"n{axis}start"]) for axis in "xyz"]
        check_box(mrc.data.T, start, written)
        assert mrc.is_volume() and mrc.header.ispg == 1
        assert mrc.header.dmax < mrc.header.dmin and mrc.header.rms < 0
        assert [int(mrc.header[f"m{axis}"]) for axis in "xyz"] == list(mrc.data.T.shape)
        reciprocal = gemmi.UnitCell(*written.record.unit_cell).reciprocal()
        spacing = 100 * np.array([reciprocal.a, reciprocal.b, reciprocal.c]) / written.record.ndiv
        np.testing.assert_allclose(mrc.voxel_size.tolist(), spacing, rtol=1e-6)
        angles = [reciprocal.alpha, reciprocal.beta, reciprocal.gamma]
        np.testing.assert_allclose(mrc.header.cellb.tolist(), angles, rtol=1e-6)
        assert b"NaN: not measured" in mrc.header.label[1]


def test_a_complete_part_of_a_map_has_its_statistics_in_the_header(make_map):
    make_map("triclinic", missing=0)
    run(["merged.refl", "format=ccp4", "exclude_lattice_points=False", "region.hkl_min=1,-1,0", "region.hkl_max=2,1,1"])
    with mrcfile.open("map.ccp4") as mrc:
        assert mrc.data.shape == (4, 7, 4)
        assert mrc.header.rms == pytest.approx(mrc.data.std(), rel=1e-5)
        assert mrc.header.dmean == pytest.approx(mrc.data.mean(), rel=1e-5)
    assert mrcfile.validate("map.ccp4")


def test_lattice_points_can_be_filled_in_for_a_viewer(make_map):
    """Elsewhere nothing changes; a filled voxel is the mean of its measured neighbours, here by a loop."""
    written = make_map("triclinic")
    run(["merged.refl", "format=ccp4"])
    run(["merged.refl", "format=ccp4", "fill_lattice_points=True", "output.prefix=filled"])
    with mrcfile.open("map.ccp4") as mrc, mrcfile.open("filled.ccp4") as other:
        box, filled = mrc.data.T.copy(), other.data.T.copy()
        start = np.array([int(mrc.header[f"n{axis}start"]) for axis in "xyz"])
    lattice = np.all((np.indices(box.shape).T + start) % 3 == 0, axis=-1).T
    np.testing.assert_array_equal(filled[~lattice], box[~lattice])
    check_box(box, start, written, keep=measured(written) & ~written.lattice_point)
    places = np.argwhere(lattice & np.isfinite(filled))
    assert len(places) > 20
    for i, j, k in places[::7]:
        around = box[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, max(k - 1, 0) : k + 2]
        assert filled[i, j, k] == pytest.approx(np.nanmean(around), rel=1e-6)


def test_a_map_for_viewers_has_a_number_in_place_of_nan_and_says_so(make_map):
    written = make_map("monoclinic")
    run(["merged.refl", "format=ccp4", "exclude_lattice_points=False", "not_measured=-7.5"])
    assert mrcfile.validate("map.ccp4")
    with mrcfile.open("map.ccp4") as mrc:
        box = mrc.data.T.copy()
        assert b"-7.5: not measured" in mrc.header.label[1] and mrc.header.dmin == -7.5
        box[box == -7.5] = np.nan
        check_box(box, [int(mrc.header[f"n{axis}start"]) for axis in "xyz"], written)


def test_an_mtz_file_read_by_gemmi_has_the_super_cell_its_group_and_no_row_for_what_was_not_measured(written):
    run(["merged.refl", "format=mtz", "exclude_lattice_points=False"])
    mtz = gemmi.read_mtz_file("map.mtz")
    cell, ndiv = written.record.unit_cell, written.record.ndiv
    np.testing.assert_allclose(mtz.cell.parameters, [*np.multiply(cell[:3], ndiv), *cell[3:]], rtol=1e-5)
    point_groups = {"P 1 21 1": "P 1 2 1", "P 61": "P 6", "P 1": "P 1", "P 43 21 2": "P 4 2 2"}
    assert mtz.spacegroup.hm == point_groups[written.record.space_group]
    assert mtz.spacegroup.laue_str() == gemmi.find_spacegroup_by_name(written.record.space_group).laue_str()
    asu = gemmi.ReciprocalAsu(mtz.spacegroup)
    columns = dict(zip(mtz.column_labels(), np.array(mtz, copy=False).T))
    index = np.stack([columns[i] for i in "HKL"], axis=1).astype(int)
    rows = np.array([written.full[tuple(n)] for n in index.tolist()])
    assert all(asu.is_in(n) for n in index.tolist())
    assert sorted(rows) == np.flatnonzero(measured(written)).tolist()
    source = written.columns
    np.testing.assert_allclose(columns["I"], source["intensity.scale.value"][rows], rtol=1e-6)
    np.testing.assert_allclose(columns["SIGI"], np.sqrt(source["intensity.scale.variance"][rows]), rtol=1e-6)
    np.testing.assert_array_equal(columns["N"], source["multiplicity"][rows])
    for half in ("half1", "half2"):
        seen = source[f"intensity.{half}.variance"][rows] >= 0
        assert 0 < seen.sum() < len(seen)
        np.testing.assert_array_equal(np.isnan(columns[f"I_{half}"]), ~seen)
        np.testing.assert_array_equal(np.isnan(columns[f"SIGI_{half}"]), ~seen)
        np.testing.assert_allclose(columns[f"I_{half}"][seen], source[f"intensity.{half}.value"][rows][seen], rtol=1e-6)


def test_an_mtz_file_read_by_cctbx_holds_intensities_at_their_resolution(written):
    run(["merged.refl", "format=mtz", "exclude_lattice_points=True"])
    arrays = {array.info().labels[0]: array for array in iotbx.mtz.object("map.mtz").as_miller_arrays()}
    intensity = arrays["I"]
    assert intensity.is_xray_intensity_array() and arrays["I_half1"].is_xray_intensity_array()
    keep = measured(written) & ~written.lattice_point
    assert intensity.size() == keep.sum()
    d = dict(zip(intensity.indices(), intensity.d_spacings().data()))
    value = dict(zip(intensity.indices(), zip(intensity.data(), intensity.sigmas())))
    for n in list(d)[:50]:
        row = written.full[n]
        assert d[n] == pytest.approx(written.columns["d"][row], rel=1e-5)
        expected, variance = (written.columns[f"intensity.scale.{name}"][row] for name in ("value", "variance"))
        assert value[n] == pytest.approx((expected, variance**0.5), rel=1e-6)
    seen = arrays["I_half2"].size()
    assert seen == (keep & (written.columns["intensity.half2.variance"] >= 0)).sum()


def default_plot(file):
    """The signal and its axes, by the rules of the NeXus manual (NXdata), from the root down."""
    group = file
    while group.attrs["NX_class"] != "NXdata":
        group = group[group.attrs["default"]]
    signal = group[group.attrs["signal"]]
    axes = [group[name] for name in group.attrs["axes"]]
    assert len(axes) == signal.ndim
    for number, (name, axis) in enumerate(zip(group.attrs["axes"], axes)):
        assert group.attrs[f"{name}_indices"] == number and axis.shape == (signal.shape[number],)
        assert axis.attrs["units"] and axis.attrs["long_name"]
    for name in group.attrs["auxiliary_signals"]:
        assert group[name].shape == signal.shape
    assert group[f"{group.attrs['signal']}_errors"].shape == signal.shape
    assert signal.attrs["units"] and signal.attrs["interpretation"] == "image"
    return signal, axes


def test_a_nexus_file_leads_from_its_root_to_the_map_over_h_k_l(written):
    run(["merged.refl", "format=h5", "exclude_lattice_points=False"])
    with h5py.File("map.h5") as file:
        classes = {file[name].attrs["NX_class"] for name in ("entry", "entry/data", "entry/sample", "entry/process")}
        assert file.attrs["NX_class"] == "NXroot" and classes == {"NXentry", "NXdata", "NXsample", "NXprocess"}
        signal, axes = default_plot(file)
        start = [round(axis[0] * n) for axis, n in zip(axes, written.record.ndiv)]
        for axis, n in zip(axes, written.record.ndiv):
            np.testing.assert_allclose(np.diff(axis[()]), 1 / n)
        check_box(signal[()], start, written)
        check_box(signal.parent["multiplicity"][()], start, written, "multiplicity")
        variance = signal.parent["intensity_errors"][()].astype(float) ** 2
        check_box(variance, start, written, "intensity.scale.variance", rel=1e-5)
        half = signal.parent["half1"][()]
        seen = written.columns["intensity.half1.variance"] >= 0
        check_box(half, start, written, "intensity.half1.value", keep=seen)
        sample = file["entry/sample"]
        assert tuple(sample["unit_cell_abc"][()]) == written.record.unit_cell[:3]
        assert sample["space_group"][()].decode() == written.record.space_group


def test_a_nexus_file_opens_with_nexusformat(make_map):
    nexus = pytest.importorskip("nexusformat.nexus")
    make_map("hexagonal")
    run(["merged.refl", "format=h5"])
    data = nexus.nxload("map.h5").plottable_data
    assert [axis.nxname for axis in data.nxaxes] == ["h", "k", "l"]
    assert data.nxsignal.nxname == "intensity" and data.nxerrors is not None


def read_vtk(path):
    """A legacy binary file by the VTK User's Guide: dimensions, points and cell arrays."""
    content = open(path, "rb").read()
    kinds = {b"float": ">f4", b"int": ">i4", b"unsigned_char": "u1"}
    position, arrays = 0, {}

    def line():
        nonlocal position
        end = content.index(b"\n", position)
        text, position = content[position:end], end + 1
        return text

    def array(count, kind):
        nonlocal position
        values = np.frombuffer(content, kinds[kind], count, position)
        position += values.nbytes
        assert content[position : position + 1] == b"\n"
        position += 1
        return values

    assert line() == b"# vtk DataFile Version 3.0" and line() and line() == b"BINARY"
    assert line() == b"DATASET STRUCTURED_GRID"
    dimensions = tuple(int(n) for n in line().split()[1:])
    _, n_points, kind = line().split()
    points = array(3 * int(n_points), kind).reshape(-1, 3)
    n_cells = int(line().removeprefix(b"CELL_DATA "))
    assert line() == b"SCALARS intensity float 1" and line() == b"LOOKUP_TABLE default"
    arrays["intensity"] = array(n_cells, b"float")
    for _ in range(int(line().split()[2])):
        name, components, count, kind = line().split()
        assert components == b"1" and int(count) == n_cells
        arrays[name.decode()] = array(n_cells, kind)
    assert position == len(content) and len(points) == np.prod(dimensions)
    return dimensions, points, arrays


def test_a_vtk_file_has_a_cell_per_voxel_around_its_scattering_vector(written):
    run(["merged.refl", "format=vtk", "exclude_lattice_points=False"])
    dimensions, points, arrays = read_vtk("map.vtk")
    shape = tuple(n - 1 for n in dimensions)
    corners = points.reshape(*dimensions[::-1], 3).transpose(2, 1, 0, 3)
    centres = (corners[1:, 1:, 1:] + corners[:-1, :-1, :-1]) / 2
    boxes = {name: values.reshape(shape[::-1]).T for name, values in arrays.items()}
    start = [-(n // 2) for n in shape]
    check_box(boxes["intensity"], start, written)
    check_box(boxes["multiplicity"], start, written, "multiplicity")
    rows = written.expanded(measured(written))
    for n, row in list(rows.items())[::97]:
        place = tuple(np.subtract(n, start))
        np.testing.assert_allclose(centres[place], reciprocal_position(written, n), atol=1e-6)
        assert boxes["sigma"][place] == pytest.approx(written.columns["intensity.scale.variance"][row] ** 0.5, rel=1e-6)
    hidden = 32  # vtkDataSetAttributes::HIDDENCELL
    np.testing.assert_array_equal(boxes["vtkGhostType"], np.where(np.isnan(boxes["intensity"]), hidden, 0))


def test_a_vtk_file_opens_with_vtk_and_shows_what_was_measured(make_map):
    vtk = pytest.importorskip("vtk")
    written = make_map("monoclinic")
    run(["merged.refl", "format=vtk", "exclude_lattice_points=False"])
    reader = vtk.vtkStructuredGridReader()
    reader.SetFileName("map.vtk")
    reader.Update()
    grid = reader.GetOutput()
    visible = sum(bool(grid.IsCellVisible(i)) for i in range(grid.GetNumberOfCells()))
    assert visible == len(written.expanded(measured(written)))


def test_an_npz_file_holds_the_box_its_axes_and_its_grid(written):
    run(["merged.refl", "format=npz", "exclude_lattice_points=False"])
    with np.load("map.npz") as arrays:
        start = [round(arrays[i][0] * n) for i, n in zip("hkl", written.record.ndiv)]
        check_box(arrays["intensity"], start, written)
        check_box(arrays["multiplicity"], start, written, "multiplicity")
        assert arrays["intensity"].dtype == np.float32
        assert tuple(arrays["unit_cell"]) == written.record.unit_cell and str(arrays["units"]) == "relative"
        n = next(iter(written.full))
        np.testing.assert_allclose(
            arrays["b_matrix"] @ (np.array(n) / arrays["ndiv"]), reciprocal_position(written, n), atol=1e-12
        )


def test_another_package_adds_a_format_by_an_entry_point(make_map):
    """As the documentation describes it, in a fresh process that finds the other package's metadata."""
    make_map("triclinic")
    Path("lines.py").write_text(
        "from diffuse_dials.algorithms.export.base import Exporter\n"
        "class Lines(Exporter):\n"
        "    name, phil, by_default = 'lines', 'digits = 3\\n  .type = int', False\n"
        "    def __init__(self, digits): self.digits = digits\n"
        "    @classmethod\n"
        "    def from_phil(cls, params): return cls(params.digits)\n"
        "    def write(self, content, prefix):\n"
        "        path = prefix.with_name(prefix.name + '.txt')\n"
        "        path.write_text('\\n'.join(f'{i:.{self.digits}f}' for i in content.columns['intensity']))\n"
        "        return {str(path): {}}\n"
    )
    Path("lines-1.dist-info").mkdir()
    Path("lines-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: lines\nVersion: 1\n")
    Path("lines-1.dist-info/entry_points.txt").write_text("[diffuse_dials.exporters]\nlines = lines:Lines\n")
    code = "from diffuse_dials.cli.export import run; run(['merged.refl', 'format=lines+mtz', 'digits=1'])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ["PYTHONPATH"]])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True)
    lines = Path("map.txt").read_text().split()
    assert len(lines) == gemmi.read_mtz_file("map.mtz").nreflections
    assert all(len(line.partition(".")[2]) == 1 for line in lines)
