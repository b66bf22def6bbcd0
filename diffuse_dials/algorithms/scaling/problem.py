"""The likelihood of the sums for a set of components, with the map eliminated: maps, scores, information.

With C photons, background G and response R, E[C] = p R (t I_v + a) + G: t(i, |s|) from the components of the stills,
p(cell) from those of the detector, a(i, |s|) an offset. An observation carries the weight

    u = t p R I_ref / (t p R I_ref + p R a + V),     V its variance from other sources (u = 1 where these are 0).

For given u the quasi-likelihood Σ u [(C - G) ln(t p I) - t p R I] has its maximum at

    I_v = Σ u (C - G - p R a) / Σ u t p R     and, for one factor per still,     b_i = Σ u (C - G) / Σ u R I_v,

which for G = a = 0 is exact Poisson maximum likelihood. A weight that knew an observation's own counts, or the noise
of its own background, would bias the result (Neyman's χ²): I_ref is the mean of the merged map over a shell of |s|
and V a smooth model, response × factor of the still × factor of the shell.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from diffuse_dials.algorithms.scaling.blocks import ScaleBlocks
from diffuse_dials.algorithms.scaling.components import Stacked
from diffuse_dials.kernels import scaling as kernels

_EMPTY = np.empty((0, 0))
_FLOOR = 1e-3
_OFFSET_FLOOR = 0.2


class NoSignal(ValueError):
    """Stills whose counts do not exceed their background, so that no positive scale exists.

    Attributes:
        stills: Their positions in the experiment list.
    """

    def __init__(self, stills):
        self.stills = [int(i) for i in stills]
        super().__init__(f"Stills {self.stills} have no signal above their background. Leave them out.")


@dataclass(frozen=True)
class MergedSums:
    """The map as it is summed.

    Attributes:
        numerator: Σ u (C - G - p R a), shape (n_voxels,).
        denominator: Σ u t p R, same shape; 1 where nothing was observed.
        intensity: Their ratio.
    """

    numerator: np.ndarray
    denominator: np.ndarray
    intensity: np.ndarray


@dataclass(frozen=True)
class Score:
    """Derivatives of the quasi-likelihood at the present parameters, and the diagonal blocks of the information.

    Attributes:
        vector: By all parameters, restraints included, shape (n_parameters,).
        still_blocks: Inverse of the information of each still's parameters, shape (n_stills, k, k).
        detector_block: Inverse of that of the detector's parameters, shape (k, k).
        signal: Σ u (C - G) of each still, shape (n_stills,).
        score_t: Σ u (C - G - p R a - t p R I) of each still, same shape.
    """

    vector: np.ndarray
    still_blocks: np.ndarray
    detector_block: np.ndarray
    signal: np.ndarray
    score_t: np.ndarray


class Problem:
    """Observations and the components that explain them.

    Attributes:
        blocks: The observations.
        components: Those refined, in the order of the parameters: stills, offsets, detector.
        present: Stills with observations, shape (n_stills,), bool.
        reference: I_ref of each shell, shape (n_shells,).

    Under MPI every rank passes over its own observations and all get the sums over ranks; what follows from these,
    every rank works out for itself. So every rank makes the same calls.
    """

    def __init__(self, blocks: ScaleBlocks, components: list[Stacked]):
        order = {"still": 0, "offset": 1, "detector": 2}
        self.components = sorted(components, key=lambda c: order[c.kind])
        # Without a component of the detector all of it is one cell.
        self.blocks = blocks if self._of("detector") else replace(blocks, cell=np.empty(0, dtype=np.int32))
        self.comm = blocks.comm
        self.present = blocks.still_rows > 0
        self.reference = np.ones(len(blocks.shells))
        self._shell = blocks.shells.of_voxel
        self._alpha = self._beta = _EMPTY
        self._n_cells = 1
        for component in self._of("detector"):
            self._n_cells = component.columns.shape[0]
        self._p0 = np.ones(self._n_cells)
        self.update()

    def _of(self, kind: str) -> list[Stacked]:
        return [c for c in self.components if c.kind == kind]

    @property
    def n_parameters(self) -> int:
        return sum(c.n_params for c in self.components)

    @property
    def vector(self) -> np.ndarray:
        """All parameters: those of a still together, then the detector's."""
        stills = [c.values for c in self.components if c.kind != "detector"]
        rest = [c.values.ravel() for c in self._of("detector")]
        return np.concatenate([np.concatenate(stills, axis=1).ravel(), *rest])

    @vector.setter
    def vector(self, vector: np.ndarray) -> None:
        stills, rest = self.split(vector)
        column = place = 0
        for component in self.components:
            k = component.values.shape[1]
            if component.kind == "detector":
                component.values = rest[None, place : place + k]
                place += k
            else:
                component.values = stills[:, column : column + k]
                column += k
        self.update()

    def split(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(parameters of the stills (n_stills, k), of the detector (k,))."""
        width = sum(c.values.shape[1] for c in self.components if c.kind != "detector")
        n = self.blocks.n_stills * width
        return vector[:n].reshape(self.blocks.n_stills, width), vector[n:]

    def update(self) -> None:
        """Tables of the present parameters."""
        n_stills, n_shells = self.blocks.n_stills, len(self.blocks.shells)
        stills, offsets, detector = self._of("still"), self._of("offset"), self._of("detector")
        self.t = np.exp(sum((c.table() for c in stills), np.zeros((n_stills, n_shells))))
        self.a = sum((c.table() for c in offsets), np.zeros((n_stills, n_shells))) if offsets else _EMPTY
        self.p = np.prod([c.table() for c in detector], axis=0) if detector else np.ones(1)
        empty = np.empty((n_shells, 0))
        self.still_columns = np.concatenate([empty, *(c.columns for c in stills)], axis=1)
        self.offset_columns = np.concatenate([empty, *(c.columns for c in offsets)], axis=1)
        self._p_derivatives = [c.derivatives() for c in detector]

    def reweight(self) -> None:
        """I_ref and the weights of the present parameters; they stay as they are until the next call."""
        merged = self.merged()
        shell, n = self._shell, len(self.blocks.shells)
        seen = merged.numerator != 0
        signal = np.bincount(shell[seen], merged.numerator[seen], n)
        response = np.bincount(shell[seen], merged.denominator[seen], n)
        overall = signal.sum() / response.sum() if response.sum() > 0 else 1.0
        mean = np.divide(signal, response, out=np.full(n, overall), where=response > 0)
        # A shell without signal gets a small positive value: its weights only need the right order of magnitude.
        self.reference = np.maximum(mean, _FLOOR * abs(overall))
        if not (self.blocks.added.size or self.a.size):
            return
        expected = self.t * self.reference
        self._alpha = np.maximum(self.a, 0) / expected if self.a.size else np.zeros_like(expected)
        self._beta = self.blocks.added / expected if self.blocks.added.size else np.zeros_like(expected)
        self._p0 = self.p

    def set_weights(self, weight: np.ndarray) -> None:
        """Weights of stills and shells from elsewhere, where counts say nothing: u = weight over its maximum.

        Args:
            weight: t over the variance per response, shape (n_stills, n_shells).
        """
        largest = weight[self.present].max()
        self._alpha = largest / np.maximum(weight, 1e-12 * largest) - 1
        self._beta = np.zeros_like(self._alpha)
        self.reference = np.full(len(self.reference), 1 / largest)

    @property
    def weights(self) -> tuple:
        """(alpha, beta, p₀) of the passes: what the weights are made of."""
        return self._alpha, self._beta, self._p0

    def row_weights(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(u, p R) of some observations, float64."""
        b = self.blocks
        shell = self._shell[b.voxel[rows]]
        still = np.searchsorted(b.starts, rows, side="right") - 1
        cell = b.cell[rows] if len(b.cell) else np.zeros(len(rows), dtype=np.int64)
        return self.weight(still, shell, cell), self.p[cell] * b.response[rows].astype(float)

    def weight(self, still: np.ndarray, shell: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """u of observations by still, shell and cell of the detector, shape (n,)."""
        if not self._alpha.size:
            return np.ones(len(still))
        return 1 / (1 + self._alpha[still, shell] + self._beta[still, shell] / self._p0[cell])

    def merged(self) -> MergedSums:
        """The map of the present parameters."""
        b = self.blocks
        numerator, denominator = kernels.map_sums(
            b.starts, b.voxel, b.signal, b.response, self._shell, b.cell, self.t, self.p, self.a, *self.weights,
            b.n_voxels,
        )  # fmt: skip
        numerator, denominator = self.comm.sum(numerator), self.comm.sum(denominator)
        denominator[denominator <= 0] = 1
        return MergedSums(numerator, denominator, numerator / denominator)

    def positive(self, merged: MergedSums) -> np.ndarray:
        """A positive map for the information, shape (n_voxels,).

        With offsets it is shrunk to the shell's mean as its noise demands, because what tells an offset from a scale
        is the contrast of the map, which noise must not pretend.
        """
        mean = self.reference[self._shell]
        if not self.a.size:
            return np.maximum(merged.intensity, _FLOOR * mean)
        seen, n = merged.numerator != 0, len(self.reference)
        noise = mean / merged.denominator
        deviation = merged.intensity - mean
        excess = np.bincount(self._shell[seen], (deviation**2 - noise)[seen], n)
        contrast = np.maximum(excess, 0) / np.maximum(np.bincount(self._shell[seen], minlength=n), 1)
        contrast = contrast[self._shell]
        shrunk = mean + np.where(seen, deviation, 0) * contrast / (contrast + noise)
        return np.maximum(shrunk, _OFFSET_FLOOR * mean)

    def score(self, merged: MergedSums, h: np.ndarray) -> Score:
        """Derivatives at a map; ``h`` from :meth:`positive`."""
        b = self.blocks
        st, sa, ct, cta, ca, sp, cp, _, total = kernels.scores(
            b.starts, b.voxel, b.signal, b.response, self._shell, b.cell, self.t, self.p, self.a, *self.weights,
            merged.intensity, h, self._n_cells,
        )  # fmt: skip
        stills = st @ self.still_columns
        if self.a.size:
            stills = np.concatenate([stills, sa @ self.offset_columns], axis=1)
        # a still is on one rank: these sums fill in the others' stills
        stills, signal, score_t, blocks, sp, cp = self.comm.sums(
            stills, total.sum(axis=1), st.sum(axis=1), self._information_of_stills(ct, cta, ca), sp, cp
        )
        detector = [d.T @ sp for d in self._p_derivatives]
        vector = np.concatenate([stills.ravel(), *detector]) - self._restraint(self.vector - self._null())
        return Score(vector, self._still_blocks(blocks), self._detector_block(cp), signal, score_t)

    def _information_of_stills(self, ct, cta, ca) -> np.ndarray:
        bt, ba = self.still_columns, self.offset_columns
        block = np.einsum("ik,kj,kl->ijl", ct, bt, bt)
        if self.a.size:
            cross = np.einsum("ik,kj,kl->ijl", cta, bt, ba)
            own = np.einsum("ik,kj,kl->ijl", ca, ba, ba)
            block = np.block([[block, cross], [cross.transpose(0, 2, 1), own]])
        return block

    def _still_blocks(self, block: np.ndarray) -> np.ndarray:
        block = block + self._still_precision()
        size = np.einsum("ijj->ij", block)
        size = np.where(size > 0, size, 1)
        # A trace of every diagonal keeps blocks of stills with hardly a photon invertible.
        block += np.einsum("ij,jl->ijl", size * 1e-9 + (size == 1), np.eye(block.shape[1]))
        return np.linalg.inv(block)

    def _detector_block(self, cp) -> np.ndarray:
        if not self._p_derivatives:
            return np.empty((0, 0))
        d = sparse.hstack(self._p_derivatives).tocsr()
        block = (d.T @ sparse.diags(cp) @ d).toarray() + self._detector_precision()
        block += np.eye(len(block)) * (1e-9 * np.trace(block) / len(block) + 1e-300)
        return np.linalg.inv(block)

    def _still_precision(self) -> np.ndarray:
        return _block_diagonal([c.precision for c in self.components if c.kind != "detector"])

    def _detector_precision(self) -> np.ndarray:
        return _block_diagonal([c.precision for c in self._of("detector")])

    def _null(self) -> np.ndarray:
        stills = [np.tile(c.null, (self.blocks.n_stills, 1)) for c in self.components if c.kind != "detector"]
        return np.concatenate([np.concatenate(stills, axis=1).ravel(), *(c.null for c in self._of("detector"))])

    def _restraint(self, deviation: np.ndarray) -> np.ndarray:
        stills, detector = self.split(deviation)
        return np.concatenate([(stills @ self._still_precision()).ravel(), self._detector_precision() @ detector])

    def product(self, vector: np.ndarray, merged: MergedSums, h: np.ndarray) -> np.ndarray:
        """Information matrix, map eliminated, restraints added, times a vector of parameter changes."""
        b = self.blocks
        stills, detector = self.split(vector)
        width = self.still_columns.shape[1]
        dt = stills[:, :width] @ self.still_columns.T
        da = stills[:, width:] @ self.offset_columns.T if self.a.size else _EMPTY
        dp, place = np.zeros(self._n_cells), 0
        for d in self._p_derivatives:
            dp += d @ detector[place : place + d.shape[1]]
            place += d.shape[1]
        tables = (b.starts, b.voxel, b.response, self._shell, b.cell, self.t, self.p, self.a, *self.weights, h)
        mean = self.comm.sum(kernels.gather(*tables, dt, dp, da, b.n_voxels)) / merged.denominator
        out_t, out_p, out_a = kernels.scatter(*tables, dt, dp, da, mean, self._n_cells)
        out = out_t @ self.still_columns
        if self.a.size:
            out = np.concatenate([out, out_a @ self.offset_columns], axis=1)
        out, out_p = self.comm.sums(out, out_p)
        out = np.concatenate([out.ravel(), *(d.T @ out_p for d in self._p_derivatives)])
        return out + self._restraint(vector)

    def null_directions(self) -> np.ndarray:
        """Parameter changes that the map absorbs completely, orthonormal rows, shape (n, n_parameters).

        One for each column of a still's factors (the same change in all stills), of the offsets (in proportion to the
        scales) and for each component of the detector. These belong to the gauge, and neither a step nor a restraint
        may change them.
        """
        rows = []
        stills, detector = self.split(np.zeros(self.n_parameters))
        width = self.still_columns.shape[1]
        for column in range(stills.shape[1]):
            change = np.zeros_like(stills)
            change[self.present, column] = 1 if column < width else self.t.mean(axis=1)[self.present]
            rows.append(np.concatenate([change.ravel(), detector]))
        place = 0
        for component in self._of("detector"):
            change, k = detector.copy(), component.n_params
            change[place : place + k] = component.values[0]
            rows.append(np.concatenate([np.zeros(stills.size), change]))
            place += k
        return np.linalg.qr(np.array(rows).T)[0].T

    def normalise(self) -> None:
        """The gauge: mean of b, panel factors and surface 1, sums of ΔB and of offsets 0 over the stills present."""
        for component in self.components:
            values = component.values.copy()
            if component.kind == "detector":
                # over the cells that were measured, each counted once
                table = component.table()
                seen = self.comm.sum(np.bincount(self.blocks.cell, minlength=len(table))[: len(table)]) > 0
                values /= table[seen].mean() if seen.any() else 1
            elif component.name == "scale":
                values -= np.log(np.exp(values[self.present]).mean(axis=0))
                values[~self.present] = 0
            else:
                # the map absorbs a mean; offsets of a strong still are worth more
                share = np.ones(len(values))
                if component.kind == "offset":
                    share = self.t.mean(axis=1)
                values -= share[:, None] * (values[self.present].sum(axis=0) / share[self.present].sum())
                values[~self.present] = 0
            component.values = values
        self.update()

    def change(self, before: tuple) -> float:
        """Largest relative change of a factor, or of an offset over the expected intensity, against earlier tables."""
        t, p, a = before
        here = self.present
        changes = [np.abs(np.log(self.t[here] / t[here])).max(initial=0), np.abs(np.log(self.p / p)).max(initial=0)]
        if self.a.size:
            changes.append((np.abs(self.a - a)[here] / (t * self.reference)[here]).max(initial=0))
        return float(max(changes))

    @property
    def tables(self) -> tuple:
        """(t, p, a) of the present parameters."""
        return self.t, self.p, self.a

    def objective(self, merged: MergedSums) -> float:
        """Minus the quasi-likelihood of the factors with the map eliminated, constants left out; not with offsets."""
        if self.a.size:
            raise ValueError("There is no likelihood of factors alone while offsets are refined.")
        b, part = self.blocks, merged.numerator > 0
        st = kernels.scores(
            b.starts, b.voxel, b.signal, b.response, self._shell, b.cell, self.t, self.p, self.a, *self.weights,
            merged.intensity, np.ones(b.n_voxels), self._n_cells,
        )  # fmt: skip
        restraint = self.vector - self._null()
        factors = np.sum(st[8] * np.log(self.t)), np.sum(st[7] * np.log(self.p) if len(b.cell) else 0.0)
        of_stills, of_cells = self.comm.sum(np.array(factors))
        return float(
            np.sum(merged.numerator[part] * np.log(merged.denominator[part])) - of_stills - of_cells
            + restraint @ self._restraint(restraint) / 2
        )  # fmt: skip


def _block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    size = sum(len(b) for b in blocks)
    whole, place = np.zeros((size, size)), 0
    for block in blocks:
        whole[place : place + len(block), place : place + len(block)] = block
        place += len(block)
    return whole
