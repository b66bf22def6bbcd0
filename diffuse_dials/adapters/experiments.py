"""Experiment lists: reading them, naming their stills, and checking reflection tables against them."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from pathlib import Path

from dxtbx.model import ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory

from diffuse_dials.adapters.entry_points import register_scaling_model
from diffuse_dials.io.atomic import replacing

# In a bare checkout nothing else tells DIALS of the model, and it would read scaled.expt without it, silently.
register_scaling_model()


@dataclass(frozen=True)
class StillKey:
    """What names a still wherever it is processed: the image and the lattice on it.

    Attributes:
        image: File name with its folder, as the .expt file resolves it.
        index: Number of the image in that file, from 0.
        lattice: Number of the lattice on the image, from 0.
    """

    image: str
    index: int
    lattice: int

    @property
    def label(self) -> str:
        """Independent of the folder, so that moving the images changes no random half-set."""
        return f"{Path(self.image).name}:{self.index}:{self.lattice}"


def load_experiments(path) -> ExperimentList:
    """Read an .expt file without opening the images.

    Raises:
        ValueError: If it is missing, is no experiment list, or is empty.
    """
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}. Check the name and the folder.")
    try:
        experiments = ExperimentListFactory.from_json_file(str(path), check_format=False)
    except Exception as error:  # dxtbx raises whatever the broken JSON leads it to
        raise ValueError(
            f"{path} cannot be read as a DIALS experiment list ({type(error).__name__}: {error}). Make it again."
        ) from error
    if not len(experiments):
        raise ValueError(f"{path} holds no experiments. Check the log of the program that wrote it.")
    return experiments


def load_blanks(path) -> ExperimentList:
    """Read an .expt file of blank exposures.

    Raises:
        ValueError: As load_experiments, or if one has no image.
    """
    experiments = load_experiments(path)
    if any(experiment.imageset is None or not len(experiment.imageset) for experiment in experiments):
        raise ValueError(
            f"input.background={path} has experiments without an image. Give blank exposures, an .expt of dials.import."
        )
    return experiments


def load_together(names, refuse=lambda name, loaded: None) -> ExperimentList:
    """The experiments of several .expt files.

    Args:
        names: The files.
        refuse: Called with each file's name and experiments; raises ValueError if they are not what is wanted.

    Raises:
        ValueError: As load_experiments, or if a still stands in two of the files.
    """
    experiments, known = ExperimentList(), set()
    for name in names:
        loaded = load_experiments(name)
        refuse(name, loaded)
        identifiers = set(loaded.identifiers()) - {""}
        twice = known & identifiers
        if twice:
            raise ValueError(f"{name} holds still {min(twice)}, which another file has as well. Give each still once.")
        known |= identifiers
        experiments.extend(loaded)
    return experiments


def save_experiments(experiments: ExperimentList, path) -> None:
    """Write an .expt file, complete or not at all."""
    with replacing(path) as partial:
        experiments.as_file(str(partial))


def image_of(experiment) -> tuple[str, int]:
    """Image file and number of the image in it, from 0, of a still.

    SMV and CBF stills may share one sequence of n images, each experiment with a scan of its one image.

    Raises:
        ValueError: If the experiment has no image, or points at several without saying which.
    """
    imageset = experiment.imageset
    if imageset is None or not len(imageset):
        raise ValueError(
            f"Experiment {experiment.identifier or '(unnamed)'} has no image. Give the .expt that "
            "dials.stills_process wrote."
        )
    number = image_number(experiment)
    path = imageset.get_path(number)
    one_file = len(imageset) == 1 or len(set(imageset.paths())) == 1
    # Files that hold many images name the one by its index; one image a file is number 0.
    in_file = int(imageset.indices()[number]) if one_file and imageset.data().get_master_path() == path else 0
    return str(path), in_file


def image_number(experiment) -> int:
    """Number, within the experiment's imageset, of the one image of a still.

    Raises:
        ValueError: If the imageset has several and no scan says which.
    """
    imageset, scan = experiment.imageset, experiment.scan
    if len(imageset) == 1:
        return 0
    if scan is None or len(scan) != 1:
        raise ValueError(
            f"Experiment {experiment.identifier or '(unnamed)'} points at {len(imageset)} images and does not say "
            "which. "
            "Give stills: dials.import convert_sequences_to_stills=True, then dials.stills_process."
        )
    return int(scan.get_array_range()[0] - imageset.get_array_range()[0])


def still_keys(experiments: ExperimentList) -> list[StillKey]:
    """Name each still by its image and its lattice, in the order of the list."""
    seen: dict[tuple[str, int], int] = {}
    keys = []
    for experiment in experiments:
        image = image_of(experiment)
        lattice = seen.get(image, 0)
        seen[image] = lattice + 1
        keys.append(StillKey(*image, lattice))
    return keys


def name_stills(experiments: ExperimentList, keys: list[StillKey]) -> None:
    """Give each experiment without an identifier one that its image and lattice determine.

    Raises:
        ValueError: If two experiments have the same identifier.
    """
    for experiment, key in zip(experiments, keys):
        if not experiment.identifier:
            name = f"{key.image}:{key.index}:{key.lattice}"
            experiment.identifier = hashlib.sha256(name.encode()).hexdigest()[:32]
    identifiers = list(experiments.identifiers())
    twice = {i for i in identifiers if identifiers.count(i) > 1} if len(set(identifiers)) < len(identifiers) else ()
    if twice:
        raise ValueError(f"The identifier {min(twice)} stands for more than one still. Give each .expt file once.")


def without_images(experiments: ExperimentList) -> ExperimentList:
    """A deep copy of the models that can be changed without touching the list that came in."""
    return copy.deepcopy(experiments)
