"""What is said of the stills beside their sums."""

from __future__ import annotations

import numpy as np

from diffuse_dials.algorithms.export.content import SumsContent


def stills_columns(content: SumsContent) -> dict[str, np.ndarray]:
    """Arrays with an element per still, in the order of the table's ids.

    Args:
        content: The table and, if given, its experiments.

    Returns:
        ``still.id`` (int32) and ``still.identifier``; with experiments ``still.wavelength`` (Å) and ``still.a_matrix``
        (A = U B, s = A h, shape (n, 3, 3), 1/Å).

    Raises:
        ValueError: If the table names a still that the experiments do not hold.
    """
    identifiers = dict(sorted(content.table.identifiers.items()))
    columns = {
        "still.id": np.array(list(identifiers), dtype=np.int32),
        "still.identifier": np.array(list(identifiers.values()), dtype=np.str_),
    }
    if content.experiments is None:
        return columns
    known = {experiment.identifier: experiment for experiment in content.experiments}
    missing = [identifier for identifier in identifiers.values() if identifier not in known]
    if missing:
        raise ValueError(
            f"{content.table.path} refers to experiment {missing[0]}, which the .expt file does not hold. Give the "
            ".expt and .refl that one command wrote together."
        )
    stills = [known[identifier] for identifier in identifiers.values()]
    columns["still.wavelength"] = np.array([still.beam.get_wavelength() for still in stills])
    columns["still.a_matrix"] = np.array([still.crystal.get_A() for still in stills]).reshape(-1, 3, 3)
    return columns
