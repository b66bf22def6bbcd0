"""How much memory a run of diffuse.grid will need, known before it begins."""

from __future__ import annotations

import logging
import resource
from dataclasses import dataclass
from pathlib import Path

from diffuse_dials.io.tables import MAX_ROWS

logger = logging.getLogger(f"dials.{__name__}")

# An estimate: diffuse.grid holds the table once (about 130 bytes), diffuse.scale its columns and what it works out.
BYTES_PER_ROW = 300
STORED_BYTES_PER_ROW = 12
MAX_SHARE = 0.3  # of the available memory for the sums; the rest is for images, maps and what comes after
_MAX_SAMPLE = 3


@dataclass(frozen=True)
class Forecast:
    """What a run will need.

    Attributes:
        n_rows: Rows of all stills.
        available: Memory that this process may still take, bytes.
        worker: Memory of one process beyond what all share, bytes.
        at_most: Whether ``n_rows`` is an upper bound, and nothing was measured.
    """

    n_rows: int
    available: int
    worker: int = 0
    at_most: bool = False

    @property
    def table_bytes(self) -> int:
        """Memory of all rows in gridded.refl."""
        return self.n_rows * BYTES_PER_ROW

    def needs_store(self) -> bool:
        """Whether the rows are too many for a .refl file or for the memory."""
        return self.n_rows > MAX_ROWS or self.table_bytes > MAX_SHARE * self.available

    def log(self, store: bool, n_processes: int) -> None:
        """Write the forecast and what follows from it into the log."""
        logger.info(
            "Forecast: %s rows; as a table they need %s, available are %s. %s",
            f"{'at most ' * self.at_most}{self.n_rows:.3g}", _gib(self.table_bytes), _gib(self.available),
            "The sums go to an HDF5 store." if store else "The sums go to a .refl table.",
        )  # fmt: skip
        if self.worker * n_processes > 0.8 * self.available:
            logger.warning(
                "%d processes of about %s each may need more memory than the %s that are available: use a smaller "
                "mp.nproc.",
                n_processes, _gib(self.worker), _gib(self.available),
            )  # fmt: skip


def _gib(n_bytes: float) -> str:
    return f"{n_bytes / 2**30:.2f} GiB"


def available_memory(root: str = "/") -> int:
    """Memory that this process can still take, bytes: of the machine, and of its control groups where they limit it.

    Args:
        root: Where /proc and /sys are.
    """
    if not (Path(root) / "proc/meminfo").is_file():  # not Linux
        import psutil  # which DIALS brings

        return psutil.virtual_memory().available
    values = {}
    for line in (Path(root) / "proc/meminfo").read_text().splitlines():
        name, rest = line.split(":")
        values[name] = int(rest.split()[0]) * 1024
    return min([values["MemAvailable"], *_group_limits(Path(root))])


def _group_limits(root: Path):
    """What is left in each control group that this process belongs to (version 2 and 1), and in those around it."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in groups:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            base, limit, usage, cache = root / "sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, usage, cache = (
                root / "sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file",
            )  # fmt: skip
        else:
            continue
        folder = base / name.strip("/")
        for place in (folder, *folder.parents):  # inside a container only the base exists
            left = _left(place, limit, usage, cache)
            if left is not None:
                yield left
            if place == base:
                break


def _left(place: Path, limit: str, usage: str, cache: str) -> int | None:
    try:
        allowed = (place / limit).read_text().strip()
        used = int((place / usage).read_text())
        statistics = (place / "memory.stat").read_text().split()
    except OSError:
        return None
    if allowed == "max":
        return None
    reclaimable = int(statistics[statistics.index(cache) + 1]) if cache in statistics else 0
    return max(0, int(allowed) - used + reclaimable)


def forecast(count_rows, numbers: list[int], most_rows: int) -> Forecast:
    """Measure a few stills, one in a hundred and three at most, unless even the most that there can be would fit.

    Args:
        count_rows: Measures a still and returns the number of its rows; raises ValueError where that fails.
        numbers: The stills that will be measured.
        most_rows: Upper bound of the rows of one still: its pixels.

    Returns:
        The forecast. If none of the sample could be measured it is the upper bound.
    """
    available = available_memory()
    bound = Forecast(most_rows * len(numbers), available, at_most=True)
    if not bound.needs_store():
        return bound
    n_sample = min(_MAX_SAMPLE, -(-len(numbers) // 100))
    sample = numbers[len(numbers) // (2 * n_sample) :: max(1, len(numbers) // n_sample)][:n_sample]
    rows, before = [], _peak()
    for number in sample:
        try:
            rows.append(count_rows(number))
        except ValueError as error:
            logger.debug("not part of the forecast: %s", error)
    if not rows:
        return bound
    mean = sum(rows) / len(rows)
    return Forecast(int(mean * len(numbers)), available, _peak() - before)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
