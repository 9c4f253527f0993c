"""What the source looks like, in numbers: functions, ternaries, comprehensions, packed lines,
comments.

    python -m benchmarks.code_figures cid_ray [OTHER_TREE ...]

Prints one Markdown column per tree. A line is "packed" when it assigns three or more names from a
tuple, is excluded from the formatter, or holds two ternaries.
"""

from __future__ import annotations

import ast
import io
import statistics
import sys
import tokenize
from pathlib import Path

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
COUNTED = (
    "lines",
    "code",
    "comment",
    "trailing comment",
    "ternary",
    "comprehension",
    "packed",
)
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def figures(root: Path) -> dict[str, str]:
    """The figures of all Python files below a folder."""
    lengths: list[int] = []
    counts = dict.fromkeys(COUNTED, 0)
    files = sorted(root.rglob("*.py"))
    for file in files:
        text = file.read_text()
        lines = text.splitlines()
        counts["lines"] += len(lines)
        counts["code"] += sum(bool(line.strip()) for line in lines)
        counts["packed"] += text.count("# fmt: skip")
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                alone = token.line.strip().startswith("#")
                counts["comment" if alone else "trailing comment"] += 1
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, FUNCTIONS):
                lengths.append((node.end_lineno or node.lineno) - node.lineno + 1)
            counts["ternary"] += isinstance(node, ast.IfExp)
            counts["comprehension"] += isinstance(node, COMPREHENSIONS)
            counts["packed"] += _is_packed(node)
    code = counts["code"]
    return {
        "files": str(len(files)),
        "lines": f"{counts['lines']:,}",
        "functions": f"{len(lengths):,}",
        "function length, median": f"{statistics.median(lengths):g}",
        "function length, 90th percentile": f"{statistics.quantiles(lengths, n=10)[-1]:.0f}",
        "function length, longest": str(max(lengths)),
        "ternaries per 1,000 lines of code": f"{1000 * counts['ternary'] / code:.1f}",
        "comprehensions per 1,000 lines of code": f"{1000 * counts['comprehension'] / code:.1f}",
        "packed lines": str(counts["packed"]),
        "comment lines, share of code": f"{100 * counts['comment'] / code:.1f} %",
        "comments after code, share of code": f"{100 * counts['trailing comment'] / code:.1f} %",
        "lines over 100 characters": str(_long_lines(files)),
    }


def _is_packed(node: ast.AST) -> bool:
    """A tuple assignment of three or more names, or a ternary within a ternary."""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
        return any(isinstance(t, ast.Tuple) and len(t.elts) > 2 for t in node.targets)
    if isinstance(node, ast.IfExp):
        return any(isinstance(part, ast.IfExp) for part in (node.body, node.orelse))
    return False


def _long_lines(files: list[Path]) -> int:
    return sum(len(line) > 100 for file in files for line in file.read_text().splitlines())


def main(roots: list[str]) -> None:
    found = [figures(Path(root)) for root in roots]
    print(f"| | {' | '.join(roots)} |")
    print("|---" * (len(roots) + 1) + "|")
    for name in found[0]:
        print(f"| {name} | {' | '.join(column[name] for column in found)} |")


if __name__ == "__main__":
    main(sys.argv[1:] or ["cid_ray"])
