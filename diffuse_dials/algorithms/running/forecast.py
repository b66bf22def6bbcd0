"""How much memory and disk a run of diffuse.grid will need, estimated before it begins."""

from __future__ import annotations

import logging
import resource
import shutil
from dataclasses import dataclass
from pathlib import Path

from diffuse_dials.io.tables import MAX_ROWS

logger = logging.getLogger(f"dials.{__name__}")

# An estimate: diffuse.grid holds the table once (about 130 bytes), diffuse.scale its columns and what it works out.
BYTES_PER_ROW = 300
# On disk, with positions: a row of gridded.refl and of the parts it is made from, which are there at the same time.
# A row of gridded.h5 compresses to 9 bytes (tools/bench_store.py), and to twice that with positions.
DISK_BYTES_PER_ROW = 97 + 65
STORED_BYTES_PER_ROW = 18
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
        free: Free space on the disk of the output, bytes; None if unknown.
    """

    n_rows: int
    available: int
    worker: int = 0
    at_most: bool = False
    free: int | None = None

    @property
    def table_bytes(self) -> int:
        """Memory of all rows in gridded.refl."""
        return self.n_rows * BYTES_PER_ROW

    def needs_store(self) -> bool:
        """Whether the rows are too many for a .refl file or for the memory."""
        return self.n_rows > MAX_ROWS or self.table_bytes > MAX_SHARE * self.available

    def disk_bytes(self, store: bool) -> int:
        """What the run will need on the disk, at most at a time."""
        return self.n_rows * (STORED_BYTES_PER_ROW if store else DISK_BYTES_PER_ROW)

    def fits_disk(self, store: bool) -> bool:
        """Whether the disk has room for it, as far as is known."""
        return self.free is None or self.disk_bytes(store) <= self.free

    def log(self, store: bool, n_processes: int) -> None:
        """Write the forecast and what follows from it into the log."""
        logger.info(
            "Forecast: %s rows; as a table they need %s of memory, available are %s. %s It needs %s on the disk%s.",
            f"{'at most ' * self.at_most}{self.n_rows:.3g}", _gib(self.table_bytes), _gib(self.available),
            "The sums go to an HDF5 store." if store else "The sums go to a .refl table.",
            _gib(self.disk_bytes(store)), "" if self.free is None else f", where {_gib(self.free)} are free",
        )  # fmt: skip
        if not self.fits_disk(store):
            logger.warning(
                "The disk of the output will probably be full before the run ends (%s are needed, %s are free). Make "
                "room, write to another folder, or use %sa larger d_min or a smaller grid.ndiv.",
                _gib(self.disk_bytes(store)), _gib(self.free), "" if store else "grid.store=True, ",
            )  # fmt: skip
        if self.worker * n_processes > 0.8 * self.available:
            logger.warning(
                "%s of about %s%s may need more memory than the %s that are available: use %sa smaller grid.ndiv.",
                f"{n_processes} processes" if n_processes > 1 else "A process", _gib(self.worker),
                " each" if n_processes > 1 else "", _gib(self.available),
                "a smaller mp.nproc or " if n_processes > 1 else "",
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


def forecast(count_rows, numbers: list[int], most_rows: int, output: str, table: int = 0) -> Forecast:
    """Measure a few stills, one in a hundred and at most three, unless even the upper bound would fit.

    Args:
        count_rows: Measures a still and returns the number of its rows; raises ValueError where that fails.
        numbers: The stills that will be measured.
        most_rows: Upper bound of the rows of one still: its pixels.
        output: The file that the run will write.
        table: Memory of the table by which each process finds voxels, bytes.

    Returns:
        The forecast. If none of the sample could be measured it is the upper bound.
    """
    available, free = available_memory(), free_disk(output)
    bound = Forecast(most_rows * len(numbers), available, table, True, free)
    if not bound.needs_store() and bound.fits_disk(False):
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
    return Forecast(int(mean * len(numbers)), available, max(_peak() - before, table), free=free)


def free_disk(output: str) -> int | None:
    """Bytes that may still be written beside a file, in the nearest folder that exists; None if unknown."""
    folder = Path(output).absolute().parent
    while not folder.is_dir() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
