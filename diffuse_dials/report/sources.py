"""Which files a report uses: those given, and what the commands wrote beside them, found by their names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from diffuse_dials.io.tables import load_table

MASK, EXTRACTED, GRID, PIXELS, SCALE, ABSOLUTE = (
    "diffuse.make_mask.json", "extracted.json", "grid.json", "pixel_statistics.json", "diffuse.scale.json",
    "diffuse.absolute.json",
)  # fmt: skip
_NAMES = {"gridded": "pixels", "extracted": "pixels", "scaled": "scaling", "merged": "scaling", "absolute": "absolute"}
_PAGES = {
    "integrated": ("integration",), "pixels": ("pixels",), "scaling": ("scaling", "map"),
    "absolute": ("absolute", "map"),
}  # fmt: skip


@dataclass(frozen=True)
class Sources:
    """Files of one run.

    Attributes:
        folder: Where the records lie.
        pages: Names of the pages that were asked for; None: all.
        integrated: .expt and .refl files of integrated stills.
        merged, absolute: The map in relative and in absolute units, or None.
        map_experiments: .expt files given with them.
    """

    folder: Path
    pages: frozenset[str] | None = None
    integrated: tuple[str, ...] = ()
    merged: str | None = None
    absolute: str | None = None
    map_experiments: tuple[str, ...] = ()

    def beside(self, name: str) -> Path | None:
        """A file of the folder, or None where there is none."""
        path = self.folder / name
        return path if path.is_file() else None

    @classmethod
    def of_folder(cls, folder) -> Sources:
        """All stages that are found in a folder.

        Raises:
            ValueError: If there is no such folder.
        """
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"There is no folder {folder}. Check the name.")
        found = sorted((folder / "integrated").glob("*_integrated.*")) or sorted(folder.glob("*integrated.*"))
        integrated = tuple(str(path) for path in found if path.suffix in (".expt", ".refl"))
        whole = cls(folder, None, integrated)
        merged, absolute = (whole.beside(f"{name}.refl") for name in ("merged", "absolute"))
        return replace(whole, merged=merged and str(merged), absolute=absolute and str(absolute))

    @classmethod
    def of_files(cls, names) -> Sources:
        """The stages of the files given; records are those beside them.

        Args:
            names: .expt, .refl and .h5 files, at least one.

        Raises:
            ValueError: If a file is of no stage, or files of one stage lie in several folders.
        """
        tables = [name for name in names if not name.endswith(".expt")]
        stages = {name: stage_of(name) for name in tables}
        by_stem = {str(Path(name).with_suffix("")): stage for name, stage in stages.items()}
        integrated, of_maps, pages = [], [], set()
        for name in names:
            stage = stages.get(name) or by_stem.get(str(Path(name).with_suffix(""))) or _by_name(name)
            if stage is None and name.endswith(".expt"):
                raise ValueError(f"{name}: of which stage? Give the .refl file that was written with it.")
            if stage == "integrated":
                integrated.append(name)
            if name.endswith(".expt") and stage in ("scaling", "absolute") and not _is_scaled(name):
                of_maps.append(name)
            pages |= set(_PAGES.get(stage, ()))
        if not pages:
            given = ", ".join(names)
            raise ValueError(f"{given}: no page draws on this alone. Give the files of a stage, or a folder.")
        rest = [name for name in names if name not in integrated] or list(names)
        folders = {Path(name).resolve().parent for name in rest}
        if len(folders) > 1:
            listed = ", ".join(str(folder) for folder in sorted(folders))
            raise ValueError(f"The files lie in several folders ({listed}). Give those of one run, in one folder.")
        folder = Path(rest[0]).parent
        merged = next((n for n, stage in stages.items() if stage == "scaling" and not _is_scaled(n)), None)
        absolute = next((n for n, stage in stages.items() if stage == "absolute"), None)
        beside = folder / "merged.refl"
        if merged is None and "scaling" in pages and beside.is_file():
            merged = str(beside)
        return cls(folder, frozenset(pages), tuple(integrated), merged, absolute, tuple(of_maps))


def stage_of(name: str) -> str | None:
    """Stage of a table: by its name if that is a command's, else by its columns.

    Raises:
        ValueError: If it is of none.
    """
    known = _by_name(name)
    if known:
        return known
    table = load_table(name)
    for column, stage in (
        ("intensity.absolute.value", "absolute"), ("intensity.scale.value", "scaling"),
        ("inverse_scale_factor", "scaling"), ("n_overloaded", "totals"), ("response", "pixels"),
        ("intensity.sum.value", "integrated"),
    ):  # fmt: skip
        if column in table:
            return stage
    raise ValueError(f"{name} is the .refl file of no stage. Give files of dials.stills_process or of diffuse.*.")


def _is_scaled(name: str) -> bool:
    return Path(name).stem.startswith("scaled")


def _by_name(name: str) -> str | None:
    stem = Path(name).stem
    if stem == "radial_totals":
        return "totals"
    if stem.endswith("integrated"):
        return "integrated"
    return next((stage for start, stage in _NAMES.items() if stem.startswith(start)), None)
