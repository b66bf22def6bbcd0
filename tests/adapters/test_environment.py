from __future__ import annotations

import subprocess
import sys

import pytest


def python(code, executable=sys.executable):
    return subprocess.run([executable, "-c", code], capture_output=True, text=True, check=False)


def printed(code, executable=sys.executable):
    """What code prints in a Python of its own, which must not fail."""
    done = python(code, executable)
    assert done.returncode == 0, done.stderr
    return done.stdout


def virtual_environment(folder, *options):
    """The Python of a new virtual environment of DIALS's own Python, even where the tests run in one already."""
    base = getattr(sys, "_base_executable", sys.executable)
    subprocess.run([base, "-m", "venv", "--without-pip", *options, str(folder)], check=True)
    return str(folder / "bin" / "python")


def test_the_package_makes_dxtbx_importable_in_a_virtual_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("LIBTBX_BUILD", raising=False)
    executable = virtual_environment(tmp_path / "env", "--system-site-packages")
    assert printed("import diffuse_dials, dxtbx.model; print('imported')", executable=executable) == "imported\n"


def test_a_libtbx_build_that_the_user_chose_is_kept(monkeypatch):
    monkeypatch.setenv("LIBTBX_BUILD", "chosen")
    assert printed("import os, diffuse_dials; print(os.environ['LIBTBX_BUILD'])") == "chosen\n"


def test_importing_the_package_loads_neither_dials_nor_numpy():
    code = "import sys, diffuse_dials; print({'dials', 'dxtbx', 'libtbx', 'numpy'} & set(sys.modules))"
    assert printed(code) == "set()\n"


def test_the_missing_extension_is_replaced_only_after_it_was_asked_for():
    code = (
        "import importlib.util as u, diffuse_dials.adapters.environment as e; real = u.find_spec('xfel_mono_sim_ext');"
        "e.allow_missing_mono_simulation(); e.allow_missing_mono_simulation(); import xfel_mono_sim_ext, sys;"
        "print(real is not None or 'Empty' in xfel_mono_sim_ext.__doc__, sys.meta_path.count(e._empty_extension))"
    )
    assert printed(code) == "True 1\n"


def test_an_extension_that_is_installed_wins(tmp_path):
    (tmp_path / "xfel_mono_sim_ext.py").write_text("real = True\n")
    code = (
        f"import sys; sys.path.append({str(tmp_path)!r}); import diffuse_dials.adapters.environment as e;"
        "e.allow_missing_mono_simulation(); import xfel_mono_sim_ext; print(xfel_mono_sim_ext.real)"
    )
    assert printed(code) == "True\n"


def test_commands_import_pandas_and_scikit_learn_when_they_are_used():
    """As modules of DIALS use them: dials.array_family.flex and dxtbx.model import them in their first lines."""
    pytest.importorskip("sklearn.cluster")
    code = (
        "import sys, diffuse_dials.cli; from dials.array_family import flex; import dxtbx.model.detector_helpers as d;"
        "import pandas, numpy as np; print('sklearn.base' in sys.modules, 'pandas.core.frame' in sys.modules);"
        "print(*d.sklearn.cluster.DBSCAN(eps=0.1, min_samples=2).fit_predict(np.zeros((3, 2))));"
        "from sklearn.neighbors import NearestNeighbors; print(pandas.DataFrame({'a': [1]}).shape)"
    )
    assert printed(code) == "False False\n0 0 0\n(1, 1)\n"


def test_a_module_that_is_imported_late_is_complete_in_every_thread(tmp_path):
    """Executed once, and for another thread not there before its last line."""
    (tmp_path / "pandas.py").write_text(
        "import time\nprint('executed')\nfirst = 1\nassert first == __import__('pandas').first\n"
        "time.sleep(0.3)\nlast = 2\n"
    )
    code = (
        f"import sys, threading; sys.path.insert(0, {str(tmp_path)!r});"
        "from diffuse_dials.adapters.environment import load_late; load_late(); import pandas;"
        "from concurrent.futures import ThreadPoolExecutor; start = threading.Barrier(8);"
        "run = lambda _: (start.wait(), pandas.last)[1]; print(*ThreadPoolExecutor(8).map(run, range(8)))"
    )
    assert printed(code) == "executed\n2 2 2 2 2 2 2 2\n"


def test_a_module_that_fails_says_so_at_each_use(tmp_path):
    (tmp_path / "pandas.py").write_text("import there_is_no_such_module\n")
    code = f"""if True:
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        from diffuse_dials.adapters.environment import load_late; load_late(); import pandas
        for _ in range(2):
            try:
                pandas.DataFrame
            except ImportError as error:
                print(error.name)
    """
    assert printed(code) == 2 * "there_is_no_such_module\n"


def test_reading_nexus_does_not_execute_pandas(tmp_path):
    """dxtbx's modules for NXmx import pint, which asks pandas for a class; whoever else asks is given it."""
    (tmp_path / "pandas").mkdir()
    (tmp_path / "pandas" / "__init__.py").write_text("print('executed')\nSeries = 1\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import diffuse_dials.cli, dxtbx.nexus, pandas;"
        "print('read'); from pandas import Series"
    )
    done = python(code)
    assert done.stdout == "read\nexecuted\n", done.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_can_import_what_stills_process_needs(method, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(
        f"""
import multiprocessing
from diffuse_dials.adapters.stills_process import stills_process_module
def work(_):
    stills_process_module()
    import xfel.mono_simulation.max_like
    return "imported"
if __name__ == "__main__":
    with multiprocessing.get_context({method!r}).Pool(1) as pool:
        print(*pool.map(work, [0]))
"""
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.stdout == "imported\n", done.stderr


def test_without_dials_there_is_one_clear_line(tmp_path):
    executable = virtual_environment(tmp_path / "env")
    code = "from diffuse_dials.adapters.environment import require_dials; require_dials()"
    done = python(code, executable=executable)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "conda install -c conda-forge dials" in done.stderr


def test_commands_use_one_thread_for_linear_algebra_unless_told_otherwise(monkeypatch):
    """Threads of the process after a product of matrices, as the system counts them."""
    for name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    code = (
        "import diffuse_dials.cli, os, numpy as np; a = np.ones((600, 600)); a @ a;"
        "print(os.environ['OPENBLAS_NUM_THREADS'], len(os.listdir('/proc/self/task')))"
    )
    assert printed(code) == "1 1\n"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    assert printed(code).startswith("2 ")
