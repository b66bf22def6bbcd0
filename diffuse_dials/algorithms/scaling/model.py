"""The scaling model of diffuse scattering as DIALS stores it: one per experiment, in scaled.expt."""

from __future__ import annotations

from dials.algorithms.scaling.model.model import ScalingModelBase, base_model_phil_str
from dials.array_family import flex
from dxtbx.model import Experiment, ExperimentList
from dxtbx.model.experiment_list import ExperimentListFactory
from libtbx import phil

from diffuse_dials.algorithms.scaling.components import SCALE_COMPONENTS

EXTRA_PARAMETERS = 5


class DiffuseScalingModel(ScalingModelBase):
    """Product of the model's components: the scale of the still, its fall-off, and experimental ones on request.

    DIALS reads and writes it under the name "diffuse" (entry point dxtbx.scaling_model_ext), so that dials.show
    lists it and ``dials.scale model=diffuse`` can refine it.
    """

    id_ = "diffuse"
    phil_scope = phil.parse(base_model_phil_str)

    def __init__(self, components: dict, configdict: dict, is_scaled: bool = False):
        super().__init__(configdict, is_scaled)
        self._components.update(components)

    @classmethod
    def from_components(cls, components: dict, **configuration) -> DiffuseScalingModel:
        """A refined model.

        Args:
            components: Components by name, in the order in which they are applied; "scale" among them.
            configuration: Values that JSON can hold, written with the model.

        Raises:
            ValueError: If the scale is not positive.
        """
        scale = components["scale"].parameters[0]
        if not scale > 0:
            raise ValueError(f"A still cannot have the scale {scale}. Leave the still out.")
        details = {name: c.configuration() for name, c in components.items() if c.configuration()}
        configdict = {"corrections": list(components), **({"components": details} if details else {}), **configuration}
        return cls(components, configdict, is_scaled=True)

    @classmethod
    def from_scale(cls, scale: float, esd: float, **configuration) -> DiffuseScalingModel:
        """A refined model of one scale.

        Args:
            scale: Factor b of the still, relative to a mean of 1 over the stills scaled together.
            esd: Its standard uncertainty from counting statistics.
            configuration: Values that JSON can hold, written with the model.

        Raises:
            ValueError: If the scale is not positive.
        """
        component = SCALE_COMPONENTS["scale"](flex.double([scale]), flex.double([esd]))
        return cls.from_components({"scale": component}, **configuration)

    @classmethod
    def initial(cls) -> DiffuseScalingModel:
        """The model before refinement: scale 1."""
        return cls({"scale": SCALE_COMPONENTS["scale"].initial()}, {"corrections": ["scale"]})

    @classmethod
    def from_data(cls, params, experiment, reflection_table) -> DiffuseScalingModel:
        """The model before refinement; DIALS's factory calls it with its own parameters."""
        model = cls.initial()
        model.update(params)
        return model

    @classmethod
    def from_dict(cls, obj: dict) -> DiffuseScalingModel:
        """The model that :meth:`to_dict` wrote.

        Raises:
            RuntimeError: If it is another model's dictionary, or names a component that is not installed.
        """
        if obj["__id__"] != cls.id_:
            raise RuntimeError(f"expected __id__ {cls.id_}, got {obj['__id__']}")
        configdict = obj["configuration_parameters"]
        components = {}
        for name in configdict["corrections"]:
            if name not in SCALE_COMPONENTS:
                raise RuntimeError(f"The scaling model has a component {name}. Install the package that brings it.")
            esds = obj[name].get("est_standard_devs")
            components[name] = SCALE_COMPONENTS[name].restore(
                flex.double(obj[name]["parameters"]), None if esds is None else flex.double(esds),
                configdict.get("components", {}).get(name, {}),
            )  # fmt: skip
        return cls(components, configdict, is_scaled=True)

    def configure_components(self, reflection_table, experiment, params) -> None:
        """Give each component the columns it needs."""
        for component in self.components.values():
            if component.column is not None:
                component.data = {component.column: reflection_table[component.column]}

    @property
    def consecutive_refinement_order(self) -> list[list[str]]:
        """All components are refined together."""
        return [list(self.components)]

    def update(self, params) -> None:
        """Take over which components the user fixes."""
        if params.diffuse.correction.fix:
            self.fixed_components = params.diffuse.correction.fix

    @property
    def scale(self) -> float:
        """Inverse scale factor b of the still: counts - background = b x response x intensity."""
        return float(self.components["scale"].parameters[0])

    @property
    def scale_esd(self) -> float | None:
        """Standard uncertainty of :attr:`scale` from counting statistics; None before refinement."""
        esds = self.components["scale"].parameter_esds
        return float(esds[0]) if esds else None


def check_parameter_count(n_parameters: int, n_stills: int, per_still: int) -> None:
    """Check that there are not more free parameters than the stills can determine.

    Args:
        n_parameters: Free parameters of all stills.
        n_stills: Stills that are scaled.
        per_still: Parameters of a still in the model: 1 for "still", 2 for "still_b".

    Raises:
        ValueError: If there are more than 5 + per_still × the number of stills: a guard against overfitting.
    """
    limit = EXTRA_PARAMETERS + per_still * n_stills
    if n_parameters > limit:
        raise ValueError(
            f"The scaling model has {n_parameters} free parameters for {n_stills} stills, more than {limit}. "
            "Use scale.model=still, which has one per still."
        )


def check_registered() -> None:
    """Check that DIALS keeps our model: an unregistered one is silently read back as None.

    Raises:
        ValueError: If an experiment loses the model on its way through a dictionary.
    """
    experiment = Experiment(scaling_model=DiffuseScalingModel.from_scale(1.0, 0.0))
    copy = ExperimentListFactory.from_dict(ExperimentList([experiment]).to_dict(), check_format=False)
    if copy[0].scaling_model is None:
        raise ValueError(
            "DIALS does not find the scaling model of diffuse_dials, so scaled.expt would lose the scales. "
            "Install the package into this DIALS: pip install . in its folder, or libtbx.configure diffuse_dials."
        )
