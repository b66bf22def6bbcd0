"""Checks of what a run makes of its images, files and parameters; each is True if all was right."""

from __future__ import annotations

import csv
import json
import os
import random
import re
import shutil
from pathlib import Path

from runs import FILES, MODEL, SIMULATE, Data, call, fresh, good, must, no_leftovers, process, reference, same_maps


def same(data: Data) -> bool:
    one = reference(data)
    mpi = fresh(data, "mpi")
    launcher = "mpirun --allow-run-as-root --oversubscribe -n 2"
    process(data, mpi, "mp.method=mpi", f"mp.launcher={launcher}")
    single = fresh(data, "single")
    blanks = sorted((data.folder / "blanks").glob("*.cbf"))
    must(["dials.import", *blanks, "convert_sequences_to_stills=True", "output.experiments=blank.expt"], single)
    symmetry = "stills_process.indexing.known_symmetry"
    must(["diffuse.integrate", *data.images, data.integrate_phil, f"{symmetry}.unit_cell={data.cell}",
          f"{symmetry}.space_group=P43212"], single)  # fmt: skip
    expts, refls = (sorted((single / "integrated").glob(f"*_integrated.{kind}")) for kind in ("expt", "refl"))
    must(["diffuse.make_mask", *expts, *data.mask], single)
    must(["diffuse.grid", *expts, *refls, "mask=pixels.mask", "background=blank.expt", *data.limits], single)
    must(["diffuse.scale", "gridded.expt", "gridded.refl"], single)
    must(["diffuse.absolute", "merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl",
          f"absolute.model={data.model}"], single)  # fmt: skip
    must(["diffuse.export", "absolute.expt", "absolute.refl"], single)
    return same_maps(one, mpi) & same_maps(one, single)


def stages(data: Data) -> bool:
    made, fine = reference(data), True
    blocks = sorted((made / "integrated").glob("idx-*_integrated.*"))
    given = {
        "integrated": blocks,
        "gridded": [made / "gridded.expt", made / "gridded.refl"],
        "scaled": [made / n for n in ("merged.expt", "merged.refl", "scaled.expt", "radial_totals.refl")],
        "merged": [made / "absolute.expt", made / "absolute.refl"],
    }
    names = {"integrated": FILES, "gridded": ("scaled.refl", "merged.refl", "absolute.refl", "map.mtz"),
             "scaled": ("absolute.refl", "map.mtz"), "merged": ("map.mtz", "map.ccp4")}  # fmt: skip
    for stage, files in given.items():
        folder = fresh(data, f"from_{stage}")
        relative = [os.path.relpath(path, folder) for path in files]
        process(data, folder, f"start_from={stage}", images=relative)
        fine &= same_maps(made, folder, names[stage])
    here = fresh(data, "in_place")
    shutil.copytree(made, here, dirs_exist_ok=True)
    process(data, here, "start_from=gridded", images=["gridded.expt", "gridded.refl"])
    fine &= same_maps(made, here, names["gridded"])
    wrong = {
        "integrated": [[made / "gridded.expt", made / "gridded.refl"], [*blocks[:1], blocks[3]]],
        "gridded": [[made / "merged.expt", made / "merged.refl"], [made / "scaled.expt", made / "radial_totals.refl"]],
        "scaled": [[made / "merged.expt", made / "merged.refl"], [made / "gridded.expt", made / "gridded.refl"]],
        "merged": [[made / "gridded.expt", made / "gridded.refl"], [made / "scaled.expt", made / "merged.refl"]],
    }
    for stage, pairs in wrong.items():
        for files in pairs:
            folder = fresh(data, "wrong")
            done = call(["diffuse.process", *files, *data.common, f"start_from={stage}"], folder)
            lines = done.stderr.strip().splitlines()
            print(f"  start_from={stage} with {' '.join(Path(f).name for f in files)}:\n    {' / '.join(lines)}")
            clear = done.returncode == 1 and len(lines) == 1 and "exit status" not in lines[0]
            fine &= good(clear and not list(folder.glob("map*")), f"status {done.returncode}, {len(lines)} lines")
    return fine


def broken(data: Data) -> bool:
    folder = fresh(data, "broken")
    images = folder / "images"
    images.mkdir()
    for number in range(6):
        shutil.copy(data.images[number], images / f"good_{number}.cbf")
    content = Path(data.images[0]).read_bytes()
    (images / "truncated_1.cbf").write_bytes(content[: len(content) // 2])
    (images / "corrupt_1.cbf").write_bytes(content[:6000] + random.Random(0).randbytes(len(content) - 6000))
    (images / "garbage_1.cbf").write_bytes(random.Random(1).randbytes(20000))
    (images / "empty_1.cbf").write_bytes(b"")
    (images / "text_1.cbf").write_text("not an image\n")
    shutil.copy(data.images[0], images / "unnumbered.cbf")
    shutil.copy(next((data.folder / "blanks").glob("*.cbf")), images / "blank_1.cbf")
    for path in foreign_images(data):
        shutil.copy(path, images / f"foreign_{path.name}")
    said = process(data, folder, "mp.nproc=2", images=[str(p) for p in sorted(images.glob("*.cbf"))])
    rows = list(csv.DictReader((folder / "stills.csv").open()))
    fine = True
    for row in rows:
        name = Path(row["image"]).name
        print(f"    {name:26} {row['status']:10} {row['reason']}")
        ok = row["status"] == "ok" if name.startswith("good") else row["status"] == "failed" and bool(row["reason"])
        fine &= good(ok, name)
    named = [p.name for p in images.glob("*.cbf") if not p.name.startswith("good")]
    log = (folder / "diffuse.process.log").read_text()
    fine &= good(all(name in log and name in said for name in named), "an image is not named in log and on screen")
    fine &= good(len(rows) == len(list(images.glob("*.cbf"))), f"{len(rows)} lines in stills.csv")
    for title, names in (("foreign", "foreign_*"), ("blank", "blank*"), ("unreadable", "[tceg]*[ty]_1.cbf")):
        files = sorted(str(p) for p in images.glob(names) if not p.name.startswith("good"))
        done = call(["diffuse.process", *files, *data.common], fresh(data, "none"))
        print(f"  only {title} images: exit status {done.returncode}\n    {done.stderr.strip()}")
        fine &= good(done.returncode == 1 and len(done.stderr.strip().splitlines()) == 1, "not one line")
    return fine


def foreign_images(data: Data) -> list[Path]:
    """Stills of a crystal of another cell: many spots, none of which fits."""
    folder = data.work / "foreign"
    if not (folder / "images").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        other = MODEL.replace("30.000   30.000   25.000", "41.000   47.000   53.000").replace("P 43 21 2", "P 21 21 21")
        (folder / "other.pdb").write_text(other)
        must(["diffuse.simulate", "other.pdb", "n_stills=2", *SIMULATE], folder)
    return sorted((folder / "images").glob("*.cbf"))


def more(data: Data) -> bool:
    made, folder = reference(data), fresh(data, "more")
    first = data.images[: 2 * len(data.images) // 3]
    process(data, folder, "mp.nproc=2", images=first)
    before = {path: path.stat().st_mtime_ns for path in (folder / "integrated").glob("idx-*")}
    said = process(data, folder, "mp.nproc=2", "resume=True")
    log = (folder / "diffuse.integrate.log").read_text()
    found = re.search(r"(\d+) images were processed before, (\d+) are new", log)
    print(f"  {found[0] if found else 'nothing said'}; {' / '.join(x for x in said.splitlines() if 'again' in x)}")
    fine = good(bool(found) and int(found[2]) == len(data.images) - len(first), "not only the new ones were integrated")
    fine &= good(all(path.stat().st_mtime_ns == when for path, when in before.items()), "blocks were made again")
    return same_maps(made, folder) & fine


def masks(data: Data) -> bool:
    from diffuse_dials.io.masks import load_mask, load_pickle, save_mask

    made = reference(data)
    folder = fresh(data, "masks")
    shapes = [panel.all() for panel in load_pickle(made / "pixels.mask")]
    mask = [panel.copy() for panel in load_mask(made / "pixels.mask", shapes)]
    mask[0][:, :60] = False
    save_mask(mask, folder / "one.mask")
    mask[0][:], mask[0][:40] = True, False
    save_mask(mask, folder / "two.mask")
    process(data, folder, "mask=one.mask", "input.mask=two.mask", "masking.bragg.method=shoebox", "mp.nproc=2")
    record = json.loads((folder / "grid.json").read_text())["masks"]
    print(f"  grid.json: {json.dumps({k: v for k, v in record['bragg'].items() if not isinstance(v, list)})}")
    used = load_mask(folder / "pixels.mask", shapes)[0]
    fine = good(record["bragg"]["method"] == "shoebox", "method")
    fine &= good(not used[:40].any() and not used[:, :60].any(), "a mask was not used")
    fine &= good("given.mask" in (folder / "diffuse.integrate.phil").read_text(), "masks were not combined")
    return fine


def mistakes(data: Data) -> bool:
    made = reference(data)
    here = fresh(data, "given")
    (here / "text.mask").write_text("not a mask\n")
    (here / "text.pdb").write_text("not a model\n")
    (here / "broken.phil").write_text("grid ndiv = 1,1,1 }\n")
    (here / "unknown.phil").write_text("grid.no_such_parameter = 1\n")
    (here / "empty.expt").write_text("")
    whole, few = data.images, data.images[:3]
    sums = [made / "gridded.expt", made / "gridded.refl"]
    at_once = (
        [*few, "no_such_parameter=1"], [*few, "d_min=-1"], [*few, "d_min=two"], [*few, "d_min=3", "d_max=2"],
        [*few, "grid.ndiv=0,1,1"], [*few, "grid.ndiv=3,3"], [*few, "unit_cell=30,30"], [*few, "space_group=P999"],
        [*few, "unit_cell=30,40,25,90,90,90"], [*few, "mp.nproc=0"], [*few, "start_from=pictures"],
        [*few, "mp.method=mpi"], [*few, "input.mask=nothing.mask"], [*few, "composition=nothing.pdb"],
        [*few, "input.reference_geometry=nothing.expt"], [*few, "background=nothing/*.cbf"],
        [*few, here / "broken.phil"], [*few, here / "unknown.phil"], ["nothing.cbf"], ["nothing/*.cbf"],
        [here / "empty.expt"],
    )  # fmt: skip
    later = (
        [*few, f"input.mask={here / 'text.mask'}"], [*few, "mp.method=mpi", "mp.launcher=no_such_launcher -n 2"],
        [*few, f"background={here / 'text.pdb'}"],
        [*few, "stills_process.dispatch.hit_finder.minimum_number_of_reflections=100000"],
        [*whole, "stills_process.indexing.known_symmetry.unit_cell=50,60,70,90,90,90"],
        [*sums, "start_from=gridded", f"absolute.model={here / 'text.pdb'}"],
        [*sums, "start_from=gridded", "scale.d_min=50"], [*sums, "start_from=gridded", "export.format=jpeg"],
    )  # fmt: skip
    fine = True
    for number, given in enumerate((*at_once, *later)):
        folder = fresh(data, "mistake")
        names = [str(one).partition("=")[0] for one in given]
        common = [one for one in data.common if one.partition("=")[0] not in names]
        done = call(["diffuse.process", *given, *common], folder)
        lines = done.stderr.strip().splitlines()
        shown = [os.path.basename(str(one)) for one in given if one not in whole]
        print(f"  {' '.join(shown)}: status {done.returncode}\n    {' / '.join(lines)}")
        fine &= good(done.returncode in (1, 2) and len(lines) == 1, f"{len(lines)} lines")
        fine &= good("Traceback" not in done.stdout + done.stderr, done.stdout[-500:])
        fine &= good(number >= len(at_once) or not (folder / "integrated").exists(), "images were integrated before")
        fine &= good(not list(folder.glob("map*")), "a map was written") & no_leftovers(folder)
    return fine
