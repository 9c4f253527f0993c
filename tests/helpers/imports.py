"""What Python files import, read from their syntax trees."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path


def imported_names(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Dotted names that import statements bring in.

    `from a import b` gives a.b, because b may be a submodule.
    """
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@functools.cache
def all_imports(file: Path) -> tuple[str, ...]:
    """Every import of a file, also those inside functions and for type checking."""
    return tuple(imported_names(ast.walk(ast.parse(file.read_text()))))


def module_level_imports(file: Path) -> list[str]:
    """The imports that are executed when the module is imported."""
    return list(imported_names(_module_level(ast.parse(file.read_text()))))


def _module_level(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _module_level(node)


def is_within(name: str, modules: Iterable[str]) -> bool:
    """Whether a dotted name is one of the modules or is inside of one."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def import_graph(package: Path) -> dict[str, set[str]]:
    """Module -> modules of the same package that it imports at module level."""
    files = {_module_name(file, package): file for file in package.rglob("*.py")}
    graph = {}
    for module, file in files.items():
        found: set[str] = set()
        for name in module_level_imports(file):
            # `from a.b import c` executes a.b, and a.b.c where that is a module.
            parent = name.rpartition(".")[0]
            found |= {name} & files.keys() or {parent} & files.keys()
        graph[module] = found - {module}
    return graph


def _module_name(file: Path, package: Path) -> str:
    parts = file.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def find_cycle(graph: Mapping[str, set[str]]) -> list[str]:
    """Modules that import each other in a circle, the first one repeated at the end; or empty."""
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        cycle: list[str] = error.args[1]
        return cycle
    return []
