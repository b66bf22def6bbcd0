"""Stills whose lattice can be indexed in several ways: refused, believed, or made to agree."""

from __future__ import annotations

import logging

from diffuse_dials.algorithms.scaling.inputs import Gridded

logger = logging.getLogger(f"dials.{__name__}")


def agree_on_indexing(gridded: Gridded, params) -> Gridded:
    """The same stills, indexed alike.

    Args:
        gridded: Stills and sums.
        params: Extract of ``scale``.

    Raises:
        ValueError: If grid.json says that the lattice is ambiguous and the user has not said what to do.
    """
    if not gridded.record.ambiguous:
        return gridded
    operators = " and ".join(gridded.record.reindexing_operators)
    if not params.assume_consistent_indexing:
        raise ValueError(
            f"The lattice can be indexed in other ways ({operators}) that give another map, so stills indexed one by "
            "one are a mixture. Set scale.reindex=True to find out which; if they agree already, set "
            "scale.assume_consistent_indexing=True."
        )
    logger.warning("The indexing is taken to be consistent, as demanded; the lattice also allows %s.", operators)
    return gridded
