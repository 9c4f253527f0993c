"""Law: rooms know one world each. Who may import whom, where ray and torch may appear, and how long a page may be."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import cid_ray
from cid_ray.results.record import read_rows
from tests.support import TINY

PACKAGE = Path(cid_ray.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
DESCRIPTION = ("config", "sections", "rules")
ROOMS = ("core", "data", "search", "results", "run")

# What of cid_ray a room may import besides itself. Rows are the currency of a search: hence results.record.
MAY_IMPORT = {
    "core": ("config",),
    "data": ("config", "places"),
    "results": ("config", "places", "checkpoints", "home"),
    "search": ("config", "places", "checkpoints", "home", "results.record"),
    "run": ("config", "places", "checkpoints", "core", "data", "results"),
}
NEVER = {  # third parties that a room never imports, not even inside a function
    "core": ("ray", "optuna", "pyarrow"),
    "data": ("torch", "optuna"),
    "results": ("torch", "ray", "optuna"),
    "run": ("optuna",),
}
MAY_HOLD_RAY = {"search/tuning.py"}  # at module level
MAX_FILE_LINES, MAX_FUNCTION_LINES = 300, 60

WITHOUT_RAY = """
import os, sys

if hasattr(os, "sched_setaffinity"):  # two threads that wait for each other take a minute on a busy machine
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(f"No module named {name!r}")

import cid_ray.run.loop

assert "ray" not in sys.modules, "the loop brought ray in"
sys.meta_path.insert(0, NoRay())
from cid_ray.train import main

sys.exit(main(sys.argv[1:]))
"""
LOADED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def imports(nodes: Iterator[ast.AST] | list[ast.stmt]) -> Iterator[str]:
    """Dotted names that import statements bring in; `from a import b` gives a.b, so that submodules are seen."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: imports are written out in full"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def all_imports(file: Path) -> list[str]:
    return list(imports(ast.walk(ast.parse(file.read_text()))))


def module_level(tree: ast.AST) -> Iterator[ast.AST]:
    """Every statement that runs when the module is imported: all but the bodies of functions."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from module_level(node)


def within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in modules)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_the_rooms_below_it(room: str) -> None:
    allowed = tuple(f"cid_ray.{name}" for name in (room, *MAY_IMPORT[room]))
    crossings = {
        f"{name_of(file)}: {name}"
        for file in (PACKAGE / room).rglob("*.py")
        for name in all_imports(file)
        if within(name, ("cid_ray",)) and not within(name, allowed)
    }
    assert not crossings


@pytest.mark.parametrize("room", NEVER)
def test_a_room_knows_one_world(room: str) -> None:
    found = {
        f"{name_of(file)}: {name}"
        for file in (PACKAGE / room).rglob("*.py")
        for name in all_imports(file)
        if within(name, NEVER[room])
    }
    assert not found


def test_every_folder_is_a_room_with_a_law() -> None:
    assert {file.parent.name for file in FILES if file.parent != PACKAGE} == set(ROOMS) == set(MAY_IMPORT)


@pytest.mark.parametrize("name", DESCRIPTION)
def test_the_description_of_a_run_imports_no_room_and_no_command(name: str) -> None:
    allowed = tuple(f"cid_ray.{other}" for other in DESCRIPTION)
    found = [n for n in all_imports(PACKAGE / f"{name}.py") if within(n, ("cid_ray",)) and not within(n, allowed)]
    assert not found


def test_ray_is_imported_at_module_level_by_the_tuner_alone() -> None:
    found = {
        name_of(file)
        for file in FILES
        if any(within(name, ("ray",)) for name in imports(module_level(ast.parse(file.read_text()))))
    }
    assert found <= MAY_HOLD_RAY


def python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE.parent)}
    return subprocess.run([sys.executable, "-c", code, *args], env=env, capture_output=True, text=True, timeout=250)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("cid_ray.train", {"ray", "torch"}),
        ("cid_ray.report", {"ray", "torch"}),
        ("cid_ray.dashboard", {"ray", "torch", "optuna"}),
        ("cid_ray.prepare", {"ray", "torch"}),
        ("cid_ray.cluster", {"ray", "torch"}),
    ],
)
def test_importing_leaves_out_what_is_not_needed(module: str, absent: set[str]) -> None:
    done = python(LOADED, module)
    assert done.returncode == 0, done.stderr
    assert not absent & set(json.loads(done.stdout))


def test_the_loop_imports_no_ray_and_trains_where_it_is_not_installed(tmp_path: Path, small_demo: Path) -> None:
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(small_demo)},
        "train": {"steps": 2, "rungs": [1.0], "samples": 0},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config))
    done = python(WITHOUT_RAY, "--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    final = read_rows(tmp_path / "run")[-1]
    assert final["event"] == "final" and final["step"] == 2


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_a_file_is_at_most_300_lines_and_a_function_60(file: Path) -> None:
    text = file.read_text()
    long = {
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    }
    assert not long
    assert len(text.splitlines()) <= MAX_FILE_LINES
