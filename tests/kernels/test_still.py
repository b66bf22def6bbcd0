"""The kernel that sums a panel, against NumPy and against dxtbx's own positions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from dxtbx.model import Detector, ParallaxCorrectedPxMmStrategy

from diffuse_dials.adapters.panels import panel_plane
from diffuse_dials.algorithms.masking.bragg import SIGMAS_STEP, LatticeMask
from diffuse_dials.algorithms.stills.fused import lattice_parameters
from diffuse_dials.kernels import coordinates, crossings, lattice, pieces, runs, spots, still, voxels
from diffuse_dials.kernels.accumulator import Accumulator
from diffuse_dials.kernels.directions import make_pieces
from diffuse_dials.kernels.shared import ClosedForm, make_shared
from diffuse_dials.kernels.sums import pack, transform, unpack
from diffuse_dials.models.grid import voxel_index

SHAPE = (600, 700)
WIDTH = 0.005
BEAM = np.array([0, 0, -1.0])


def tilted_panel(shape=SHAPE, parallax=True, pixel=0.075):
    """A panel of small pixels (mm), turned about two axes, with the parallax of 0.45 mm of silicon."""
    panel = Detector().add_panel()
    fast, slow = np.array([0.98, 0.05, -0.19]), np.array([0.04, -0.97, 0.2])
    fast /= np.linalg.norm(fast)
    slow -= fast * (fast @ slow)
    panel.set_frame(fast, slow / np.linalg.norm(slow), (-12.0, 30.0, -100.0))
    panel.set_pixel_size((pixel, pixel))
    panel.set_image_size(shape[::-1])
    panel.set_mu(4.2)
    panel.set_thickness(0.45)
    if parallax:
        panel.set_px_mm_strategy(ParallaxCorrectedPxMmStrategy(4.2, 0.45))
    return panel


def orientation(rng, cell, angle=90.0):
    """Setting matrix A of a crystal in a random orientation, with γ = ``angle``."""
    axes, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    real = np.diag(cell)
    real[1, :2] = cell[1] * np.array([np.cos(np.radians(angle)), np.sin(np.radians(angle))])
    return np.linalg.inv(real @ axes)


def test_fractional_indices_are_those_of_dxtbxs_positions_for_a_500_angstrom_cell(rng):
    """|Δh| < 5e-5 is wanted; what single precision of the parallax shifts leaves is a thousand times less."""
    panel, matrix, wavelength = tilted_panel(), np.linalg.inv(orientation(rng, (500.0, 480.0, 430.0))), 0.9
    plane = panel_plane(panel)
    matrices = np.column_stack([matrix / wavelength, -matrix @ BEAM / wavelength])[None]
    for row, column in rng.integers(0, SHAPE, (50, 2)):
        direction = coordinates.direction(row, column, plane.vectors, plane.shift)[:3]
        lab = np.array(panel.get_pixel_lab_coord((column + 0.5, row + 0.5)))
        h = matrix @ (lab / np.linalg.norm(lab) - BEAM) / wavelength
        assert [coordinates.linear(matrices, 0, j, *direction) for j in range(3)] == pytest.approx(h, abs=5e-8)


def random_patch(rng):
    """Terms of a coordinate on a patch: along its rows steep, flat or with a turning point, and little along slow."""
    slope = rng.uniform(-0.7, 0.7) if rng.random() < 0.8 else rng.uniform(-0.02, 0.02)
    bend, twist = rng.uniform(-1, 1, 2) * 10 ** rng.uniform([-5, -7], [-3, -6])
    along_fast = np.array([rng.uniform(), slope, bend, twist])
    along_slow = np.array([1.0, *rng.uniform(-0.1, 0.1, 3) ** [1, 2, 3]])
    return np.array([along_fast[d] * along_slow[e] for d, e in pieces.TERMS])


NO_RESPONSE = np.zeros((1, 1), np.uint32)  # list_runs only has it fetched


def values_of(patch, n_fast, n_slow):
    """Value of the terms of a patch at its pixels, shape (slow, fast)."""
    r, t = np.mgrid[:n_slow, :n_fast] - np.array([n_slow // 2, n_fast // 2])[:, None, None]
    return sum(value * t**d * r**e for value, (d, e) in zip(patch, pieces.TERMS))


def key_of(voxel, base=0):
    """Key of voxels, shape (n, 3), in a piece."""
    a, b, c = (voxel - base + voxels.CENTRE).T
    return a << 2 * voxels.FIELD | b << voxels.FIELD | c


def test_keys_tell_the_voxel_of_each_pixel_and_runs_begin_where_it_changes(rng):
    """10 000 rows, worked out pixel by pixel and by crossings; rows of which the latter are not certain say so."""
    n_rows, n_certain, n_solved = 10_000, 0, 0
    keys, starts = np.zeros(pieces.PIECE + 1, np.int32), np.empty(pieces.PIECE + 8, np.int32)
    by_crossings, none = np.empty(pieces.PIECE + 8, np.int32), np.zeros(pieces.WORDS, np.uint64)
    cubics, found = np.empty((1, coordinates.N_CUBICS), np.float32), crossings.make_crossings(1)
    for _ in range(n_rows // pieces.TOGETHER):
        n_slow = int(rng.choice([pieces.TOGETHER, rng.integers(1, pieces.TOGETHER)]))
        n = int(rng.choice([pieces.PIECE, rng.integers(4, pieces.PIECE)]))
        local = np.stack([random_patch(rng) for _ in range(3)])[:, :, None]
        powers = coordinates.farthest_powers(np.array([0, n]))[:, 0]
        margin = 2 * coordinates.SINGLE * (np.abs(local[..., 0]) @ powers).max()
        coordinates.expand(0, n_slow, local, cubics)
        crossings.find_crossings(0, n, local, cubics, margin, found)
        all_values = np.stack([values_of(patch[:, 0], n, n_slow) for patch in local], axis=-1)
        for r, values in enumerate(all_values):
            expected = key_of(np.floor(values).astype(np.int64))
            certain = not voxels.find_voxels(0, n, cubics, 0, r, margin, keys)
            n_certain += certain
            far = (np.abs(values - np.rint(values)) > margin + 3 / 2**20).all(axis=1)  # cut to multiples of 2⁻²⁰
            assert np.array_equal(keys[1 : n + 1][far], expected[far])
            assert not certain or np.array_equal(keys[1 : n + 1], expected)
            changes = np.append(0, np.flatnonzero(np.diff(keys[1 : n + 1])) + 1)
            assert runs.find_runs(n, keys, starts) == len(changes)
            assert np.array_equal(starts[: len(changes) + 1], [*changes, n])
            if found.rows[r, 0, crossings.UNSURE]:
                continue
            n_solved += 1
            changes = np.append(0, np.flatnonzero(np.diff(expected)) + 1)
            kinds = np.full(n_slow, pieces.USED, np.uint8)
            n_runs = runs.list_runs(r, r, n, kinds, found, keys, none, none, NO_RESPONSE, starts, by_crossings)
            assert n_runs == len(changes)
            assert np.array_equal(starts[: len(changes) + 1], [*changes, n])
            assert np.array_equal(by_crossings[: len(changes)], expected[changes])
    assert n_certain > 0.6 * n_rows and n_solved > 0.2 * n_rows


def test_flags_of_pixels_begin_runs_too_however_their_voxels_are_found(rng):
    """Runs of (voxel, flags) by numpy, of a row of random flags; a row that ends within a word."""
    n = 2 * pieces.PIECE + 70
    found, kinds = crossings.make_crossings(3), np.array([pieces.USED, pieces.MIXED, pieces.USED], np.uint8)
    flags = np.cumsum(rng.random((2, 3 * pieces.PIECE)) < 0.05, axis=1) % 2
    near, skip = np.packbits(flags.astype(np.uint8), axis=1, bitorder="little").view(np.uint64)
    moves = rng.random((3, 3 * pieces.PIECE)) < 0.08
    moves[:, :: pieces.PIECE] = False
    steps = np.array([1 << 2 * voxels.FIELD, -(1 << voxels.FIELD), 1])
    keys = key_of(np.array([[3, -4, 5]])) + np.cumsum(steps @ moves)
    found.steps[:] = steps
    marks = np.packbits(moves.astype(np.uint8), axis=1, bitorder="little").view(np.uint64)
    found.rows[0, :, : 3 * pieces.WORDS] = marks.reshape(3, 3, pieces.WORDS).swapaxes(0, 1).reshape(3, -1)
    found.rows[0, :, crossings.FIRST_KEY] = keys[:: pieces.PIECE]
    full = keys + flags[0] * voxels.NEAR + flags[1] * voxels.SKIP
    begins = np.append(True, np.diff(full[:n]) != 0) | (np.arange(n) % pieces.PIECE == 0)
    starts, run_keys = np.empty((2, n + 8), np.int32)
    for unsure in (np.array([0, 0, 0]), np.array([1, 0, 1]), np.array([0, 1, 1])):
        found.rows[0, :, crossings.UNSURE] = unsure
        given = np.append(0, keys).astype(np.int32)
        n_runs = runs.list_runs(0, 0, n, kinds, found, given, near, skip, NO_RESPONSE, starts, run_keys)
        assert np.array_equal(starts[: n_runs + 1], np.append(np.flatnonzero(begins), n))
        assert np.array_equal(run_keys[:n_runs], full[:n][begins])


@pytest.mark.parametrize("h", np.arange(-9, 10) / 4)
def test_voxels_at_half_integers_and_at_negative_indices_are_those_of_floor(h):
    """n = floor(h ndiv + ½), exactly, wherever the number is exact; a piece all of it on one boundary."""
    ndiv, corner, n = 2, -30, 100
    matrices = np.zeros((1, 3, 4))
    matrices[0, :, 3] = h * ndiv + 0.5 - corner
    local, base = np.empty((3, pieces.N_TERMS, 1)), np.empty((3, 1))
    coordinates.localise(matrices, 0, np.zeros((1, 3, pieces.N_TERMS, 1)), 0, 4.0, base, local)
    cubics, found = np.empty((1, coordinates.N_CUBICS), np.float32), crossings.make_crossings(1)
    keys, margin = np.zeros(pieces.PIECE + 1, np.int32), 1e-6
    coordinates.expand(0, pieces.TOGETHER, local, cubics)
    crossings.find_crossings(0, n, local, cubics, margin, found)
    assert (found.rows[:, 0, crossings.UNSURE] != 0).all() == ((2 * h) % 1 == 0.5)
    assert voxels.find_voxels(0, n, cubics, 0, 0, margin, keys) == ((2 * h) % 1 == 0.5)
    voxels.decide_close(0, 0, n, cubics, 0, 0, margin, np.ones((5, 3)), None, matrices, base, keys)
    expected = voxel_index(np.array([[h, h, h]]), (ndiv, ndiv, ndiv)) - corner
    assert (keys[1 : n + 1] == key_of(expected, base[:, 0].astype(int))).all()
    if (2 * h) % 1 != 0.5:
        assert (found.rows[:, 0, crossings.FIRST_KEY] == keys[1]).all() and not found.rows[
            :, 0, : 3 * pieces.WORDS
        ].any()


def sums_by_numpy(index, key, *columns):
    """Sums by rows of (index, key), in ascending order, without index 0: numpy.unique and bincount."""
    code, inverse = np.unique(pack(index) * 2 + key, return_inverse=True)
    rows = np.column_stack([unpack(code >> 1), code & 1])
    others = rows[:, :3].any(axis=1)
    return rows[others], [np.bincount(inverse, column, len(rows))[others] for column in columns]


class Case:
    """A panel, an image with all that can be wrong in it, and both ways of summing it."""

    def __init__(self, rng, kind="uint16", panel=None, wavelength=1.1, n_masked=0.02, limit=0.6):
        panel = tilted_panel() if panel is None else panel
        self.plane, self.wavelength = panel_plane(panel), wavelength
        shape, whole = self.plane.shape, kind != "float32"
        self.raw = rng.poisson(3, shape).astype(kind) if whole else rng.normal(3, 2, shape).astype(kind)
        self.raw[rng.random(shape) < 0.001] = 65535 if whole else 500
        self.raw[rng.random(shape) < 0.001] = 5000
        self.limits = tuple(np.dtype(kind).type(x) for x in ((0, 90, 100, 65533) if whole else (-50, 90, 100, 1e9)))
        self.geometry = self.plane.geometry(BEAM)
        self.s = self.geometry.s_vectors(wavelength)
        length = self.geometry.s_lengths(wavelength).reshape(shape)
        self.bins = np.floor(length / WIDTH).astype(np.uint16)
        self.units = rng.integers(2**20, 2**25, shape).astype(np.uint32)
        self.state = np.where(length > limit, pieces.BEYOND, pieces.USED).astype(np.uint8)
        use = rng.random(shape) >= n_masked
        use[:, 200:230] = False
        self.state[~use] = pieces.MASKED
        self.pieces = make_pieces(shape, self.plane.vectors, self.plane.shift, BEAM)
        unit = 2.0**-25
        self.shared, self.static, _ = make_shared(
            shape, self.plane.vectors, self.plane.shift, BEAM, self.plane.normal, self.pieces.bounds, ClosedForm(1.0),
            self.units * unit, use, wavelength, WIDTH, 0.0, limit, unit,
        )  # fmt: skip

    def crystal(self, a_matrix, ndiv, masks=(), settings=()):
        """The kernel's Crystal, and the voxels from its corner to that of h = 0."""
        matrix = np.linalg.inv(a_matrix) * np.array(ndiv)[:, None]
        s_max = self.geometry.s_lengths(self.wavelength).max()
        reach = np.floor(np.linalg.norm(matrix, axis=1) * s_max).astype(int) + 2
        matrices = [np.column_stack([matrix / self.wavelength, -matrix @ BEAM / self.wavelength + 0.5 + reach])]
        for a in settings:
            inverse = np.linalg.inv(a)
            matrices.append(np.column_stack([inverse, -inverse @ BEAM]) / self.wavelength)
        lattices = np.array([lattice_parameters(mask, 0, self.wavelength) for mask in masks])
        matrices = np.array(matrices)
        widths = np.ones(1) if not masks or masks[0].radius is not None else masks[0].sigmas ** 2
        made = still.Crystal(
            matrices, np.abs(matrices[..., :3]).sum(axis=2), (2 * reach + 4) // 4, BEAM, self.wavelength,
            lattices.reshape(-1, lattice.N_LATTICE),
            masks[0].centring if masks else np.zeros((0, 3)), widths, SIGMAS_STEP,
        )  # fmt: skip
        return made, reach

    def by_kernel(
        self, a_matrix, ndiv, masks=(), settings=(), keep=None, calibration=(None, None), background=None,
        accumulator=None,
    ):  # fmt: skip
        """Rows by the kernel, twice: the second time in memory that was used."""
        crystal, reach = self.crystal(a_matrix, ndiv, masks, settings)
        accumulator = accumulator or Accumulator()
        for _ in range(2):
            result = accumulator.sum_panel(
                self.raw, self.limits, self.shared, self.static, self.pieces, self.plane.vectors, self.plane.shift,
                crystal, keep, *calibration, background, background, -reach,
                lambda whole, real, rows: (whole[rows], real[rows]),
            )  # fmt: skip
        index, bragg, sums, _, *bins = result
        return np.column_stack([index, bragg]), *sums, *bins

    def good(self):
        """Pixels of the radial totals, and those of the map."""
        good = (self.state != pieces.MASKED) & (self.raw >= self.limits[0]) & (self.raw <= self.limits[1])
        return good, (good & (self.state == pieces.USED)).ravel()

    def by_numpy(self, a_matrix, ndiv, near):
        """Rows of index and bragg, and sums of pixels, response, positions and counts."""
        _, used = self.good()
        n = voxel_index(transform(np.linalg.inv(a_matrix), self.s[used]), ndiv)
        place, n_fast = np.arange(self.raw.size)[used], self.raw.shape[1]
        columns = (
            np.ones(len(n)), self.units.ravel()[used].astype(float), 2 * (place % n_fast) + 1,
            2 * (place // n_fast) + 1, self.raw.ravel()[used].astype(float),
        )  # fmt: skip
        return sums_by_numpy(n, near[used], *columns)


WHOLE = (still.N_PIXELS, still.RESPONSE, still.FAST, still.SLOW, still.COUNTS)


@pytest.mark.parametrize("kind", ["uint16", "float32"])
def test_sums_of_a_panel_are_those_of_numpy_for_every_pixel(kind, rng):
    """Sentinels, overloads, masked pixels and limits of resolution among them."""
    case, a_matrix, ndiv = Case(rng, kind), orientation(rng, (90.0, 80.0, 37.0)), (3, 3, 3)
    keep = rng.random(SHAPE) > 0.1
    whole = kind == "uint16"
    calibration = (None, None) if whole else (rng.normal(1, 0.1, SHAPE), np.full((1, 1), 1.5))
    background = None if whole else rng.random(SHAPE)
    rows, sums, real, of_bins, real_bins = case.by_kernel(
        a_matrix, ndiv, keep=keep, calibration=calibration, background=background
    )
    expected_rows, expected = case.by_numpy(a_matrix, ndiv, ~keep.ravel())
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE[: 5 if whole else 4], expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))
    good, used = case.good()
    bin_of = case.bins.ravel().astype(np.int64)
    if not whole:
        photons = (case.raw.astype(float) - calibration[0]) / 1.5
        n = voxel_index(transform(np.linalg.inv(a_matrix), case.s[used]), ndiv)
        terms = [values.ravel() for values in (photons, np.maximum(photons, 0), background)]
        _, expected = sums_by_numpy(n, ~keep.ravel()[used], *(values[used] for values in terms))
        for column, values in zip((still.PHOTONS, still.POSITIVE, still.BACKGROUND), expected):
            assert real[:, column] == pytest.approx(values, rel=1e-12, abs=1e-11)
        for column, values in zip((still.PHOTONS, still.POSITIVE, still.BACKGROUND), terms):
            total = np.bincount(bin_of[good.ravel()], values[good.ravel()], len(of_bins))
            assert real_bins[:, column] == pytest.approx(total, rel=1e-12, abs=1e-10)
    assert np.array_equal(of_bins[:, still.N_PIXELS], np.bincount(bin_of[good.ravel()], minlength=len(of_bins)))
    response = np.bincount(bin_of[good.ravel()], case.units.ravel()[good.ravel()], len(of_bins))
    assert np.array_equal(of_bins[:, still.RESPONSE], response.astype(np.int64))
    above = ((case.state != pieces.MASKED) & (case.raw > case.limits[2]) & (case.raw <= case.limits[3])).ravel()
    assert np.array_equal(of_bins[:, still.N_OVERLOADED], np.bincount(bin_of[above], minlength=len(of_bins)))


def test_the_largest_counts_are_summed_exactly(rng):
    """Running sums of 32 bits overflow along the row, and their differences over a run do not."""
    case, a_matrix = Case(rng, "uint32"), orientation(rng, (90.0, 80.0, 37.0))
    case.raw[:] = rng.choice([0, 1, still.LARGEST], case.raw.shape)
    case.limits = tuple(np.uint32(x) for x in (0, still.LARGEST, still.LARGEST, 2**32 - 2))
    rows, sums, *_ = case.by_kernel(a_matrix, (3, 3, 3))
    expected_rows, expected = case.by_numpy(a_matrix, (3, 3, 3), np.zeros(case.raw.size, bool))
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


@pytest.mark.parametrize("shape", [(40, 131), (40, 129), (40, 7), (300, 1), (1, 300), (40, 128)])
@pytest.mark.parametrize("parallax", [True, False])
def test_rows_of_any_length_are_summed(shape, parallax, rng):
    """Pieces of one pixel, which have no direction, and tiles of one row among them."""
    case, a_matrix = Case(rng, "int32", tilted_panel(shape, parallax)), orientation(rng, (300.0, 280.0, 57.0))
    mask = lattice_mask(a_matrix, radius=0.0014)
    near = ~mask.keep(0, shape, case.s, transform(np.linalg.inv(a_matrix), case.s))
    assert near.any()
    rows, sums, *_ = case.by_kernel(a_matrix, (5, 5, 5), [mask], [a_matrix])
    expected_rows, expected = case.by_numpy(a_matrix, (5, 5, 5), near)
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


def test_a_wide_panel_is_summed_after_a_narrow_one_of_a_larger_grid(rng):
    """Nothing of the first passes, and the second has more pixels in a row than its grid has voxels."""
    accumulator = Accumulator()
    for shape, cell, n_masked in (((4, 30), (90.0, 80.0, 37.0), 1), ((20, 300), (3.0, 4.0, 5.0), 0)):
        case, a_matrix = Case(rng, panel=tilted_panel(shape), n_masked=n_masked), orientation(rng, cell)
        rows, sums, *_ = case.by_kernel(a_matrix, (1, 1, 1), accumulator=accumulator)
        expected_rows, expected = case.by_numpy(a_matrix, (1, 1, 1), np.zeros(case.raw.size, bool))
        assert np.array_equal(rows, expected_rows) and bool(n_masked) == (len(rows) == 0)
        for column, values in zip(WHOLE, expected):
            assert np.array_equal(sums[:, column], values.astype(np.int64))


def test_half_a_still_is_not_added_to_the_next(rng):
    """What stops a still leaves its sums in the accumulator; the next one's are those of NumPy."""
    case, a_matrix = Case(rng, panel=tilted_panel((40, 300))), orientation(rng, (90.0, 80.0, 37.0))

    def fail(whole, real, rows):
        raise ValueError(f"stopped with {len(rows)} rows")

    accumulator = Accumulator()
    crystal, reach = case.crystal(a_matrix, (3, 3, 3))
    with pytest.raises(ValueError, match="stopped with [1-9]"):
        accumulator.sum_panel(
            case.raw, case.limits, case.shared, case.static, case.pieces, case.plane.vectors, case.plane.shift, crystal,
            None, None, None, None, None, -reach, fail,
        )  # fmt: skip
    other = orientation(rng, (70.0, 80.0, 37.0))
    rows, sums, *_ = case.by_kernel(other, (3, 3, 3), accumulator=accumulator)
    expected_rows, expected = case.by_numpy(other, (3, 3, 3), np.zeros(case.raw.size, bool))
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


def test_voxels_far_apart_in_one_piece_are_found_pixel_by_pixel(rng):
    """Neighbouring pixels 3 voxels apart: a key cannot hold what a piece passes."""
    case, a_matrix = Case(rng, panel=tilted_panel((60, 300), pixel=1.0)), orientation(rng, (90.0, 80.0, 37.0))
    mask = lattice_mask(a_matrix, radius=0.003)
    near = ~mask.keep(0, case.raw.shape, case.s, transform(np.linalg.inv(a_matrix), case.s))
    rows, sums, *_ = case.by_kernel(a_matrix, (5, 5, 5), [mask], [a_matrix])
    expected_rows, expected = case.by_numpy(a_matrix, (5, 5, 5), near)
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


@pytest.mark.parametrize("seed", range(4))
def test_a_large_panel_next_to_the_sample_is_summed(seed):
    """Where polynomials are wrong by a tenth, a pixel's own voxel may be farther off than a key can hold."""
    rng, panel = np.random.default_rng(seed), tilted_panel((60, 300), pixel=1.0)
    panel.set_frame(panel.get_fast_axis(), panel.get_slow_axis(), 0.1 * np.array(panel.get_origin()))
    case, a_matrix = Case(rng, panel=panel), orientation(rng, (100.0, 90.0, 60.0))
    assert case.pieces.patches[pieces.ERROR].max() > 0.1
    rows, sums, *_ = case.by_kernel(a_matrix, (2, 2, 2))
    expected_rows, expected = case.by_numpy(a_matrix, (2, 2, 2), np.zeros(case.raw.size, bool))
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


def test_where_polynomials_do_not_fit_every_pixel_is_worked_out(rng):
    """The same sums from pieces whose error is unknown: nothing but the exact formula decides."""
    case, a_matrix = Case(rng, panel=tilted_panel((100, 700))), orientation(rng, (90.0, 80.0, 37.0), 104.0)
    mask = lattice_mask(a_matrix, radius=0.003)
    first = case.by_kernel(a_matrix, (3, 3, 3), [mask], [a_matrix])
    case.pieces.patches[pieces.ERROR] = np.inf
    second = case.by_kernel(a_matrix, (3, 3, 3), [mask], [a_matrix])
    assert all(np.array_equal(a, b) for a, b in zip(first, second))


def lattice_mask(a_matrix, centring=(), **values):
    """A mask by distance of 0.075 mm pixels."""
    given = {"radius": None, "domain_size": 800.0, "mosaicity": 0.002, "spot": 1e-4, "point_spread": 0.7, **values}
    panel = tilted_panel()
    normal = np.array(panel.get_normal()) / panel.get_directed_distance()
    return LatticeMask(
        metric=a_matrix.T @ a_matrix, centring=np.array(centring, dtype=float).reshape(-1, 3),
        sigmas=np.array([3.0]), largest=0.004, panels=((0.075, normal),), s0=BEAM / 1.1, **given,
    )  # fmt: skip


CELL = (90.0, 80.0, 57.0)


@pytest.mark.parametrize(
    "cell, angle, values",
    [
        (CELL, 90.0, {}),
        (CELL, 104.0, {}),
        (CELL, 117.0, {"radius": 0.006}),  # spheres that reach into the next cells of an oblique lattice
        (CELL, 90.0, {"radius": 0.004, "centring": [(0.5, 0.5, 0.0)]}),
        (CELL, 120.0, {"radius": 0.003, "centring": [(2 / 3, 1 / 3, 1 / 3), (1 / 3, 2 / 3, 2 / 3)]}),
        ((31.0, 23.0, 17.0), 108.0, {"radius": 0.006}),  # tiles that are far from all lattice points
        ((310.0, 270.0, 240.0), 95.0, {"radius": 0.0004}),  # and such that hold many of them
    ],
)
def test_pixels_near_the_lattice_are_those_of_the_mask_by_distance(cell, angle, values, rng):
    """LatticeMask.keep of every pixel is the reference; its radius differs from |s| bin to |s| bin."""
    case, a_matrix = Case(rng), orientation(rng, cell, angle)
    mask = lattice_mask(a_matrix, **values)
    mask = mask.with_sigmas(rng.uniform(2, 4, 150))
    near = ~mask.keep(0, SHAPE, case.s, transform(np.linalg.inv(a_matrix), case.s))
    assert 0.005 < near.mean() < 0.6
    rows, sums, *_ = case.by_kernel(a_matrix, (3, 3, 3), [mask], [a_matrix])
    expected_rows, expected = case.by_numpy(a_matrix, (3, 3, 3), near)
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


@pytest.mark.parametrize("cell", [(31.0, 23.0, 17.0), CELL])
def test_tiles_that_are_looked_at_hold_all_pixels_near_the_lattice_and_few_hold_none(cell, rng):
    """Some hold none: a disc around a lattice point is taken for a rectangle, and may lie between pixels."""
    case, a_matrix = Case(rng, n_masked=0, limit=9.0), orientation(rng, cell, 108.0)
    mask = lattice_mask(a_matrix, radius=0.001)
    near = ~mask.keep(0, SHAPE, case.s, transform(np.linalg.inv(a_matrix), case.s)).reshape(SHAPE)
    crystal, _ = case.crystal(a_matrix, (1, 1, 1), [mask], [a_matrix])
    work, n_fast = spots.make_work(crystal.lattices, case.pieces.edges), SHAPE[1]
    hit, looked_at = [], []
    for row in range(0, SHAPE[0], pieces.TOGETHER):
        spots.mark_near(
            row, True, n_fast, case.shared.kinds, case.pieces, case.plane.vectors, case.plane.shift, crystal, work,
            np.zeros(len(case.pieces.edges) * pieces.WORDS, np.uint64),
        )  # fmt: skip
        blocks = np.arange(0, n_fast, pieces.BLOCK)
        hit.append(np.logical_or.reduceat(near[row : row + pieces.TOGETHER].any(axis=0), blocks))
        looked_at.append(np.isin(blocks, work.active[0, : work.n_active[0]]))
    hit, looked_at = np.array(hit), np.array(looked_at)
    assert not (hit & ~looked_at).any()
    assert 0 < hit.sum() <= looked_at.sum() < 2 * hit.sum()


def test_of_two_lattices_on_an_image_both_are_masked(rng):
    """Voxels are the first lattice's; a pixel near either is a Bragg pixel."""
    case = Case(rng)
    settings = [orientation(rng, (90.0, 80.0, 57.0), 100.0), orientation(rng, (90.0, 80.0, 57.0), 100.0)]
    masks = [lattice_mask(a, mosaicity=m) for a, m in zip(settings, (0.001, 0.003))]
    near = np.zeros(case.raw.size, dtype=bool)
    for mask, a in zip(masks, settings):
        near |= ~mask.keep(0, SHAPE, case.s, transform(np.linalg.inv(a), case.s))
    keep = rng.random(SHAPE) > 0.01
    rows, sums, *_ = case.by_kernel(settings[0], (2, 2, 2), masks, settings, keep)
    expected_rows, expected = case.by_numpy(settings[0], (2, 2, 2), near | ~keep.ravel())
    assert np.array_equal(rows, expected_rows)
    for column, values in zip(WHOLE, expected):
        assert np.array_equal(sums[:, column], values.astype(np.int64))


def test_a_mask_without_widths_has_one_radius_everywhere(rng):
    mask = lattice_mask(orientation(rng, (90.0, 80.0, 57.0)))
    fixed = lattice_parameters(replace(mask, radius=0.002), 0, 1.1)
    assert fixed[lattice.RADIUS] == 0.002**2
    assert not fixed[lattice.RADIUS + 1 : lattice.RADIUS + 4].any()
