"""Law: a file at the top of cid_ray is a command, a folder is a package with one concern, and
no imports run in a circle (docs/architecture.md). Reference: the syntax trees of all files.
"""

from __future__ import annotations

import ast
import io
import json
import os
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import cid_ray
from cid_ray.results.records import read_records
from tests.helpers.imports import (
    all_imports,
    find_cycle,
    import_graph,
    is_within,
    module_level_imports,
)
from tests.helpers.tiny_run import TINY

PACKAGE = Path(cid_ray.__file__).parent
ROOT = PACKAGE.parent
FILES = sorted(PACKAGE.rglob("*.py"))
TEMPLATES = sorted(path for end in ("j2", "js", "css") for path in PACKAGE.rglob(f"*.{end}"))
COMMANDS = (
    "prepare",
    "train",
    "tune",
    "scale",
    "evaluate",
    "predict",
    "label_next",
    "pool",
    "export",
    "report",
    "dashboard",
    "repair",
    "cluster",
    "doctor",
    "grafana",
)
MAX_COMMAND_LINES = 110
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

# Package -> packages and modules of cid_ray that it may import besides itself.
MAY_IMPORT = {
    "config": (),
    "storage": ("config",),
    "core": ("config", "storage"),
    "data": ("config", "storage"),
    "results": ("config", "storage"),
    "cli": ("config", "storage", "results"),
    "resources": ("config", "storage", "results.provenance"),
    "training": ("config", "storage", "core", "data", "results", "resources"),
    "inference": ("config", "storage", "core", "data", "results", "training"),
    # A search calls callbacks, so it knows their base class and none of them.
    "search": ("config", "storage", "results", "resources", "training", "callbacks.base"),
    "scaling": (
        "config",
        "storage",
        "core",
        "data",
        "results",
        "resources",
        "training",
        "search",
    ),
    "callbacks": ("config", "storage", "results", "cli", "search"),
    # A plan simulates a search: it knows the order of its trials and asks no study for one.
    "planning": (
        "config",
        "storage",
        "results",
        "resources",
        "search.checks",
        "search.order",
        "search.trial_spec",
    ),
    "diagnostics": ("config", "storage", "resources", "__version__"),
}
# Package -> third parties that it never imports, not even inside a function.
NEVER_IMPORTS = {
    "config": ("torch", "ray", "optuna", "numpy", "pyarrow"),
    "storage": ("torch", "ray", "optuna"),
    "cli": ("torch", "ray", "optuna"),
    "core": ("ray", "optuna", "pyarrow"),
    "data": ("torch", "optuna"),
    "results": ("torch", "ray", "optuna"),
    "resources": ("torch", "optuna"),
    "training": ("optuna",),
    "inference": ("optuna",),
    "search": ("torch",),
    "scaling": ("optuna",),
    "callbacks": ("torch",),
    "planning": ("torch", "ray", "optuna"),
    "diagnostics": ("optuna",),
}
MAY_IMPORT_RAY_AT_MODULE_LEVEL = {"search/ray_adapter.py"}

# Private APIs of other libraries: only in the module that names the tested versions.
COMPAT = {"resources/_ray_compat.py", "search/_optuna_compat.py", "callbacks/_mlflow_compat.py"}
PRIVATE_MODULES = ("ray._private", "ray.experimental.internal_kv", "ray.autoscaler._private")
PRIVATE_ATTRIBUTES = {"_private", "_trial_id", "_storage", "_contains", "_trial_runs"}

# Words that the code had of its own before it took the field's terms.
BANNED_IN_NAMES = {"vigil", "crew", "pulse", "begun", "arm", "arms", "storm", "weathered"}
BANNED_NAMES = {"Hold", "Watch", "Home", "Board", "Share"}
BANNED_IN_TEXT = re.compile(
    r"\b(vigil|crews?|pulse|begun|goes on|go on with|at once|stands in|lies in|at hand"
    r"|whoever|fallen silent)\b",
    re.IGNORECASE,
)

TRAIN_WITHOUT_RAY = """
import os, sys

if hasattr(os, "sched_setaffinity"):
    # Two threads that wait for each other take a minute on a busy machine.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

class NoRay:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "ray":
            raise ImportError(f"No module named {name!r}")

import cid_ray.training.loop

assert "ray" not in sys.modules, "the loop imports ray"
sys.meta_path.insert(0, NoRay())
from cid_ray.train import main

sys.exit(main(sys.argv[1:]))
"""
PRINT_LOADED = """
import importlib, json, sys
importlib.import_module(sys.argv[1])
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def functions_of(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Name of every function and its number of lines without the docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False) or ""
            lines = (node.end_lineno or 0) - node.lineno + 1
            yield node.name, lines - len(docstring.splitlines())


# ---- the tree ----


def test_files_at_the_top_are_commands() -> None:
    expected = {f"{name}.py" for name in (*COMMANDS, "__init__", "__main__")}
    assert {file.name for file in FILES if file.parent == PACKAGE} == expected


@pytest.mark.parametrize("name", COMMANDS)
def test_command_reads_from_top_to_bottom_on_a_page(name: str) -> None:
    text = (PACKAGE / f"{name}.py").read_text()
    assert len(text.splitlines()) <= MAX_COMMAND_LINES
    assert [function for function, _ in functions_of(ast.parse(text))][:1] == ["main"]


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_file_and_its_functions_are_short(file: Path) -> None:
    text = file.read_text()
    assert len(text.splitlines()) <= MAX_FILE_LINES
    lengths = dict(functions_of(ast.parse(text)))
    assert not {name: count for name, count in lengths.items() if count > MAX_FUNCTION_LINES}


def test_every_package_has_a_rule() -> None:
    packages = {file.relative_to(PACKAGE).parts[0] for file in FILES if file.parent != PACKAGE}
    assert packages == set(MAY_IMPORT) == set(NEVER_IMPORTS)


# ---- imports ----


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_package_imports_only_packages_below_it(package: str) -> None:
    allowed = [f"cid_ray.{name}" for name in (package, *MAY_IMPORT[package])]
    wrong = {
        f"{name_of(file)}: {name}"
        for file in (PACKAGE / package).rglob("*.py")
        for name in all_imports(file)
        if is_within(name, ["cid_ray"]) and not is_within(name, allowed)
    }
    assert not wrong


@pytest.mark.parametrize("package", NEVER_IMPORTS)
def test_package_imports_only_what_it_may(package: str) -> None:
    wrong = {
        f"{name_of(file)}: {name}"
        for file in (PACKAGE / package).rglob("*.py")
        for name in all_imports(file)
        if is_within(name, NEVER_IMPORTS[package])
    }
    assert not wrong


def test_modules_never_import_each_other_in_a_cycle() -> None:
    graph = import_graph(PACKAGE)
    assert len(graph) == len(FILES)
    assert "cid_ray.config.schema" in graph["cid_ray.config"], "the graph is incomplete"
    assert not find_cycle(graph)


def test_planted_import_cycle_is_found(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text("from pack.b import x\n")
    (package / "b.py").write_text("def f():\n    from pack.a import y\n")
    assert not find_cycle(import_graph(package))
    (package / "b.py").write_text("import pack.a\n")
    assert set(find_cycle(import_graph(package))) == {"pack.a", "pack.b"}


def test_ray_at_module_level_is_imported_by_the_adapter_only() -> None:
    found = {
        name_of(file)
        for file in FILES
        if any(is_within(name, ["ray"]) for name in module_level_imports(file))
    }
    assert found == MAY_IMPORT_RAY_AT_MODULE_LEVEL


def private_uses(file: Path) -> set[str]:
    """Private modules and attributes of other libraries that a file uses."""
    attributes = {
        node.attr
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) != "self"
    }
    foreign = [name for name in all_imports(file) if not is_within(name, ["cid_ray", "__future__"])]
    imports = {
        name
        for name in foreign
        if is_within(name, PRIVATE_MODULES) or any(part[0] == "_" for part in name.split("."))
    }
    return attributes & PRIVATE_ATTRIBUTES | imports


def test_private_apis_of_libraries_are_used_in_compat_modules_only() -> None:
    uses = {name_of(file): private_uses(file) for file in FILES}
    assert {name for name, found in uses.items() if found} == COMPAT


def test_tests_import_no_test_and_benchmarks_import_no_tests() -> None:
    wrong = {
        f"{file.relative_to(ROOT)}: {name}"
        for folder, banned in (("tests", r"tests\.(\w+\.)?test_"), ("benchmarks", r"tests\b"))
        for file in (ROOT / folder).rglob("*.py")
        for name in all_imports(file)
        if re.match(banned, name)
    }
    assert not wrong


# ---- what importing loads ----


def run_python(code: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        env=env,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("cid_ray", {"ray", "torch", "optuna", "numpy", "pydantic"}),
        ("cid_ray.train", {"ray", "torch", "optuna"}),
        ("cid_ray.tune", {"ray"}),
        ("cid_ray.evaluate", {"ray", "torch", "optuna"}),
        ("cid_ray.report", {"ray", "torch", "optuna"}),
        ("cid_ray.dashboard", {"ray", "torch", "optuna"}),
        ("cid_ray.prepare", {"ray", "torch", "optuna"}),
        ("cid_ray.cluster", {"ray", "torch", "optuna"}),
        ("cid_ray.scale", {"ray", "torch", "optuna", "simpy"}),
        ("cid_ray.planning.plan_run", {"ray", "torch"}),
        ("cid_ray.export", {"ray", "torch", "optuna"}),
        ("cid_ray.grafana", {"ray", "torch", "optuna"}),
        # It forks, so nothing that starts threads may be loaded.
        ("cid_ray.doctor", {"ray", "torch", "optuna", "numpy", "pyarrow", "grpc"}),
    ],
)
def test_import_of_module_leaves_out_what_it_does_not_need(module: str, absent: set[str]) -> None:
    done = run_python(PRINT_LOADED, module)
    assert done.returncode == 0, done.stderr
    assert not absent & set(json.loads(done.stdout))


@pytest.mark.process
def test_training_without_ray_installed_runs_to_its_end(tmp_path: Path, small_demo: Path) -> None:
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(small_demo)},
        "train": {"steps": 2, "rungs": [1.0], "num_sample_images": 0},
    }
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(config))
    done = run_python(TRAIN_WITHOUT_RAY, "--config", str(path), "--out", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    final = read_records(tmp_path / "run")[-1]
    assert final["event"] == "final" and final["step"] == 2


# ---- language ----


def words_of(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name, in lower case."""
    return {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)}


def test_names_are_the_terms_of_the_field() -> None:
    wrong = set()
    for file in FILES:
        tokens = tokenize.generate_tokens(io.StringIO(file.read_text()).readline)
        for name in {token.string for token in tokens if token.type == tokenize.NAME}:
            if words_of(name) & BANNED_IN_NAMES or name in BANNED_NAMES:
                wrong.add(f"{name_of(file)}: {name}")
    assert not wrong


def test_comments_and_messages_are_in_the_terms_of_the_field() -> None:
    wrong = set()
    for file in [*FILES, *TEMPLATES]:
        text = re.sub(r"[\s#]+", " ", file.read_text())  # phrases run over line ends
        wrong |= {f"{name_of(file)}: {match.group()}" for match in BANNED_IN_TEXT.finditer(text)}
    assert not wrong


def test_every_text_file_is_read_and_written_in_utf8() -> None:
    """The locale of a machine must not decide what a file means."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            text_mode = any(
                isinstance(a, ast.Constant) and a.value in ("r", "w", "a", "x") for a in node.args
            )
            if name in ("read_text", "write_text") or (name == "open" and text_mode):
                owner = getattr(getattr(node.func, "value", None), "id", "")
                named = any(keyword.arg == "encoding" for keyword in node.keywords)
                if not named and owner != "paths":
                    found.append(f"{path.name}:{node.lineno}")
    assert not found, found


def calls(file: Path) -> Iterator[tuple[str, ast.Call]]:
    """Every call of a file with the name of what is called."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def test_text_reaches_the_terminal_in_one_place() -> None:
    """`say` and RunConsole write control characters out; rich's markup is off for data."""
    printing = {
        name_of(file)
        for file in FILES
        for node in ast.walk(ast.parse(file.read_text()))
        if (isinstance(node, ast.Name) and node.id == "print")
        or (isinstance(node, ast.Attribute) and node.attr in ("print_exc", "print_exception"))
    }
    assert printing == {"cli/printing.py"}
    consoles = {
        name_of(file): {word.arg for word in call.keywords}
        for file in FILES
        for name, call in calls(file)
        if name == "Console"
    }
    assert {"cli/console.py", "results/text_report.py", "resources/costs.py"} == consoles.keys()
    for name, words in consoles.items():
        assert {"markup", "emoji", "highlight"} <= words, name
    columns = [call for file in FILES for name, call in calls(file) if name == "TextColumn"]
    is_data = [call for call in columns if "description" in ast.unparse(call)]
    assert is_data and all("markup=False" in ast.unparse(call) for call in is_data)


def test_yaml_is_read_in_one_place() -> None:
    """Its limits hold for configurations, cluster files and files of other programs alike."""
    reading = {
        name_of(file)
        for file in FILES
        for name, call in calls(file)
        if name in ("load", "load_all", "safe_load", "safe_load_all")
        and ast.unparse(call.func).startswith("yaml.")
    }
    assert reading == {"config/yaml_reader.py"}
