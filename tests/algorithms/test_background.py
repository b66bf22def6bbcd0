"""Backgrounds: blanks scaled and propagated, and what is isotropic in a still, against known truths."""

from __future__ import annotations

import types

import numpy as np
import pytest

from diffuse_dials.algorithms.background.base import PanelSample
from diffuse_dials.algorithms.background.blanks import Blanks
from diffuse_dials.algorithms.background.image import ImageBackground
from diffuse_dials.algorithms.background.radial import RadialBackground
from diffuse_dials.algorithms.stills.noise import NoiseModel
from diffuse_dials.models.exposure import Exposure


class Stack:
    """Blanks of two panels of 50 x 50 pixels as they stream in: a real stack, made by numbers in place of files."""

    files, shapes, noise = ("blank.expt",), [(50, 50), (50, 50)], NoiseModel.counting(2)

    def __init__(self, rng, rate=30.0, times=(0.1, 0.2, 0.3), monitors=None):
        self.good = tuple(rng.uniform(size=2500) > 0.01 for _ in range(2))
        self.images = []
        for time, monitor in zip(times, monitors or [None] * len(times)):
            light = time if monitor is None else monitor
            counts = tuple(rng.poisson(rate * light, 2500).astype(float) for _ in range(2))
            self.images.append((counts, self.good, Exposure(time, None, monitor, light)))
        self.monitored = monitors is not None

    def have_monitor(self):
        return self.monitored

    def __iter__(self):
        return iter(self.images)


def options(scale_by="Auto", smooth=None):
    return types.SimpleNamespace(scale_by=scale_by, smooth=smooth)


def test_blanks_are_scaled_by_exposure_and_their_variance_by_its_square(rng):
    """0.6 s of blanks at 30 photons/s under a still of 0.2 s: 6 photons ± √(18)/3."""
    background = ImageBackground.from_phil(options(), Stack(rng))
    photons, variance, known = background.at(1, Exposure(0.2, None, None, 0.2))
    assert photons[known].mean() == pytest.approx(6, abs=4 * np.sqrt(2 / 2500))
    assert photons[known].var() == pytest.approx(2, rel=4 * np.sqrt(2 / 2500) + 0.02)
    assert variance[known].mean() == pytest.approx(2, rel=0.02)
    assert np.array_equal(known, Stack(np.random.default_rng(0)).good[1])


def test_blanks_follow_the_monitor_where_it_was_read_for_all_of_them(rng):
    stack = Stack(rng, monitors=(2.0, 5.0, 3.0))
    still = Exposure(0.1, None, 4.0, 4.0)
    by_monitor = ImageBackground.from_phil(options(), stack)
    assert by_monitor.describe()["scaled_by"] == "monitor"
    assert by_monitor.at(0, still)[0].mean() == pytest.approx(30 * 4, rel=0.01)
    by_time = ImageBackground.from_phil(options("exposure"), stack)
    assert by_time.at(0, still)[0].mean() == pytest.approx(30 * 10 / 6, rel=0.01)
    with pytest.raises(ValueError, match="no reading for some blanks"):
        ImageBackground.from_phil(options("monitor"), Stack(rng))


def test_smoothing_keeps_the_level_takes_no_bad_pixel_in_and_claims_no_smaller_variance(rng):
    stack = Stack(rng)
    for counts, good, _ in stack.images:
        for panel in range(2):
            counts[panel][~good[panel]] = 1e6
    plain, smooth = (ImageBackground.from_phil(options(smooth=s), stack) for s in (None, 2.0))
    known = plain.known[0]
    assert smooth.photons[0].max() < 30
    assert smooth.photons[0][known].mean() == pytest.approx(plain.photons[0][known].mean(), rel=0.01)
    assert smooth.photons[0][known].std() < 0.25 * plain.photons[0][known].std()
    assert smooth.variances[0][known].mean() == pytest.approx(plain.variances[0][known].mean(), rel=0.01)


def still(rng, scale, level, n=200_000, bragg=0, mean=0.3):
    """A still with an anisotropic pattern of azimuth, a background of another radial shape, and polarization."""
    s = np.sqrt(rng.uniform(0.02**2, 0.5**2, n))
    azimuth = rng.uniform(0, 2 * np.pi, n)
    response = (1 - 0.4 * s * np.cos(azimuth) ** 2) * rng.uniform(0.7, 1.3, n)
    crystal = 1 + 0.3 * np.cos(2 * azimuth + 20 * s)
    expected = mean * response * (scale * crystal * np.exp(-s / 0.4) + level * np.exp(-s / 0.15))
    counts = rng.poisson(expected).astype(float)
    counts[:bragg] += 300
    use = np.ones(n, dtype=bool)
    sample = PanelSample(s, counts, np.zeros(n), response, np.maximum(counts, 0), use)
    truth = mean * response * (scale * np.exp(-s / 0.4) + level * np.exp(-s / 0.15))
    return sample, truth, crystal


def split(sample, n_first):
    """The same pixels on two panels."""
    names = PanelSample.__dataclass_fields__
    parts = slice(n_first), slice(n_first, None)
    return [PanelSample(*(getattr(sample, name)[part] for name in names)) for part in parts]


@pytest.mark.parametrize("mean", [0.05, 3.0])
def test_the_radial_background_is_the_isotropic_part_at_low_and_high_counts(rng, mean):
    """No bias at 0.05 photons a pixel: Σ counts / Σ response, and bounds that counting alone does not reach."""
    sample, truth, _ = still(rng, 1.0, 1.0, mean=mean)
    found = RadialBackground(0.005, 5.0, None).of_still(split(sample, 70_000))
    photons, variance = (np.concatenate(x) for x in zip(*found))
    assert photons.sum() == pytest.approx(truth.sum(), abs=4 * np.sqrt(truth.sum()))
    inner = sample.s_length < 0.2
    assert photons[inner].sum() == pytest.approx(truth[inner].sum(), abs=4 * np.sqrt(truth[inner].sum()))
    # per bin of about 1000 pixels: 3 % of counting noise at 1 photon a pixel
    bins = (sample.s_length / 0.005).astype(int)
    pulls = np.bincount(bins, photons - truth)[20:100] / np.sqrt(np.bincount(bins, truth)[20:100])
    assert abs(pulls.mean()) < 0.5 and pulls.std() < 1.6
    assert np.all(variance < 0.02 * np.maximum(truth, 0.01))


def test_spots_that_the_mask_missed_do_not_reach_the_profile(rng):
    """200 pixels of 300 photons would add 30 % to the total."""
    sample, truth, _ = still(rng, 1.0, 1.0, bragg=200, mean=1.0)
    ((photons, _),) = RadialBackground(0.005, 5.0, None).of_still([sample])
    assert photons.sum() == pytest.approx(truth.sum(), rel=0.01)


def test_what_is_left_is_the_anisotropic_part_whatever_the_level_of_the_background(rng):
    """Slope of what remains against the true anisotropic part: the scale of the crystal, not that of the jet."""
    for scale, level in ((1.0, 0.0), (1.0, 2.0), (0.4, 1.0)):
        sample, _, crystal = still(rng, scale, level, mean=20)
        ((photons, _),) = RadialBackground(0.005, 5.0, None).of_still([sample])
        pattern = 20 * sample.response * (crystal - 1) * np.exp(-sample.s_length / 0.4)
        left = sample.counts - photons
        slope = (left @ pattern) / (pattern @ pattern)
        error = np.sqrt(pattern**2 @ sample.counts) / (pattern @ pattern)
        assert slope == pytest.approx(scale, abs=5 * error + 0.005)


def test_stills_of_the_crystal_are_no_blanks(simulated):
    with pytest.raises(ValueError, match="stills with a crystal: their diffraction would be subtracted"):
        Blanks([simulated / "truth_stills.expt"], None, (), None, None, None)
