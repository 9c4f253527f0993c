"""Laws of the Python API: `import cid_ray` is light, every name resolves and is documented."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from pathlib import Path

import pytest

import cid_ray

HEAVY = {"torch", "ray", "optuna", "pydantic", "numpy", "pyarrow", "yaml", "rich"}
LOADED = """
import json, sys
import cid_ray
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
FUNCTIONS = [name for name in cid_ray.__all__ if inspect.isfunction(getattr(cid_ray, name))]


@pytest.mark.process
def test_import_of_package_loads_no_library(tmp_path: Path) -> None:
    root = str(Path(cid_ray.__file__).parents[1])
    code = f"import sys; sys.path.insert(0, {root!r}){LOADED}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(json.loads(done.stdout))


def test_api_has_the_functions_of_a_whole_search() -> None:
    assert {"load_config", "open_table", "read_records", "summarize", "train"} <= set(FUNCTIONS)


@pytest.mark.parametrize("name", cid_ray.__all__)
def test_api_name_resolves_and_is_listed(name: str) -> None:
    value = getattr(cid_ray, name)
    assert name in dir(cid_ray)
    if name != "__version__":
        assert value.__name__ == name and value.__doc__


@pytest.mark.parametrize("name", FUNCTIONS)
def test_api_function_docstring_has_example_and_every_argument(name: str) -> None:
    function = getattr(cid_ray, name)
    docstring = inspect.getdoc(function) or ""
    assert "Example:" in docstring
    assert "Returns:" in docstring or "Yields:" in docstring
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in docstring


@pytest.mark.parametrize("name", sorted(set(cid_ray.__all__) - {"__version__", *FUNCTIONS}))
def test_api_class_docstring_has_example(name: str) -> None:
    assert "    >>> " in (inspect.getdoc(getattr(cid_ray, name)) or "")


def test_api_unknown_name_is_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        getattr(cid_ray, "trian")  # noqa: B009


def test_api_train_is_function_after_import_of_command() -> None:
    """The command cid_ray/train.py has the name of the function `cid_ray.train`."""
    from cid_ray.train import main

    assert inspect.isfunction(cid_ray.train) and main.__module__ == "cid_ray.train"
