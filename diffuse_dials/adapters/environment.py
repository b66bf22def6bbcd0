"""Work-arounds for what DIALS needs from its environment and, as packaged, does not always find."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


def point_to_libtbx_environment() -> None:
    """Let libtbx find its environment from a virtual environment that uses the DIALS of its base Python.

    libtbx looks for its file ``libtbx_env`` below ``sys.prefix``, which in a virtual environment is the wrong
    folder, so that ``import dxtbx`` fails. ``LIBTBX_BUILD`` names the right one, and processes that this one starts
    inherit it. Nothing is changed outside a virtual environment, where the variable is set, and where the virtual
    environment has a libtbx of its own.
    """
    if "LIBTBX_BUILD" in os.environ or sys.prefix == sys.base_prefix:
        return
    folders = (  # Debian, conda
        Path("lib", "cctbx", f"python{sys.version_info[0]}.{sys.version_info[1]}"),
        Path("share", "cctbx"),
    )
    if any((Path(sys.prefix) / folder / "libtbx_env").is_file() for folder in folders):
        return
    for folder in folders:
        if (Path(sys.base_prefix) / folder / "libtbx_env").is_file():
            os.environ["LIBTBX_BUILD"] = str(Path(sys.base_prefix) / folder)
            return


def use_one_thread() -> None:
    """Let linear algebra use one thread, unless the user said how many: the work is divided among processes.

    NumPy's OpenBLAS starts one for each core at the first product of some size, and they wait for the next in a busy
    loop. On two hardware threads of one core that doubled the CPU time of everything else.
    """
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")


class _EmptyExtension(MetaPathFinder, Loader):
    """Stands in for a compiled extension where no other finder knows it: it is asked last."""

    name = "xfel_mono_sim_ext"

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname == self.name else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        module.__doc__ = "Empty: the extension is not installed, and stills_process uses nothing of it."


_empty_extension = _EmptyExtension()


def allow_missing_mono_simulation() -> None:
    """Let stills_process refine where cctbx was packaged without ``xfel_mono_sim_ext``.

    DIALS's mosaicity refinement imports pure-Python modules of ``xfel.mono_simulation``, whose ``__init__`` wants that
    extension and re-exports what it holds; Debian's package lacks it. An installed extension is found first.
    """
    if _empty_extension not in sys.meta_path:
        sys.meta_path.append(_empty_extension)


# For all modules that are imported late, since they import each other. A thread that has it may ask again.
_loading = threading.RLock()


# pint (before 0.20) asks pandas for its Series class, to leave operations on one to pandas: no command has any
_REFUSED = ("pint.compat",)


class _LateModule(ModuleType):
    """A module that is executed when an attribute is needed that its place in the file system does not determine."""

    def __getattr__(self, name):
        if _asker(sys._getframe(1)) in _REFUSED:
            raise AttributeError(name)
        package = sys.modules.get(self.__name__.rpartition(".")[0])
        with _loading:  # another thread waits until the module is complete
            for module in (package, self):  # in the order of an import
                if isinstance(module, _LateModule):
                    _execute(module)
        # not getattr: what a module that is being executed has not defined yet is missing
        return ModuleType.__getattribute__(self, name)


def _asker(frame) -> str | None:
    """Name of the module that asks something of another; ``from package import name`` does so in importlib."""
    while frame is not None and frame.f_globals.get("__name__") == "importlib._bootstrap":
        frame = frame.f_back
    return None if frame is None else frame.f_globals.get("__name__")


def _execute(module: _LateModule) -> None:
    """Execute the module, unless that has been begun; after a failure the next use tries again."""
    late = module.__spec__.loader
    if not isinstance(late, _LateLoader):
        return
    module.__spec__.loader = module.__loader__ = late.inner
    try:
        late.inner.exec_module(module)
    except BaseException:
        module.__spec__.loader = module.__loader__ = late
        raise
    module.__class__ = ModuleType


class _LateLoader(Loader):
    def __init__(self, inner: Loader):
        self.inner = inner

    def create_module(self, spec):
        return self.inner.create_module(spec)

    def exec_module(self, module):
        module.__class__ = _LateModule


class _LateFinder(MetaPathFinder):
    # dials.array_family.flex and dxtbx.model import the first three, for functions that few programs call
    names = ("pandas", "sklearn", "sklearn.cluster", "scipy.interpolate", "scipy.ndimage", "scipy.optimize")

    def find_spec(self, fullname, path=None, target=None):
        if fullname not in self.names:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None:
            spec.loader = _LateLoader(spec.loader)
        return spec


_late_finder = _LateFinder()


def load_late() -> None:
    """Import large packages only when they are used.

    pandas and scikit-learn take half of the start-up of a DIALS program; parts of SciPy, which our modules import whole
    (``from scipy import ndimage``), a tenth of the rest.

    importlib's LazyLoader does not serve: it executes a package as soon as a module in it is imported.
    """
    if _late_finder not in sys.meta_path:
        sys.meta_path.insert(0, _late_finder)


def require_dials() -> None:
    """Stop with one line where there is no DIALS.

    Raises:
        SystemExit: If DIALS cannot be found.
    """
    # packages called dials and dxtbx exist on PyPI and are something else: ask for what only the real ones hold
    for package, module in (("dials", "dials.array_family"), ("dxtbx", "dxtbx.model"), ("cctbx", "cctbx.crystal")):
        if importlib.util.find_spec(package) is None or importlib.util.find_spec(module) is None:
            raise SystemExit(
                f"diffuse_dials needs DIALS, and {sys.executable} has no {module}. Get DIALS with "
                "'conda install -c conda-forge dials' (not from PyPI) or, on Debian, 'apt install dials'."
            )
