"""The file formats of `export` by name. Needs no torch, so `--help` does not wait for it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

from cid_ray.config import InputError


@dataclass(frozen=True)
class ExportKind:
    """A file format.

    Attributes:
        suffix: of its files.
        packages: what must be installed besides cid_ray.
        is_graph: whether the file is a program, and not weights alone.
    """

    suffix: str
    packages: tuple[str, ...] = ()
    is_graph: bool = True


KINDS = {
    "onnx": ExportKind(".onnx", ("onnx", "onnxruntime")),
    "torch_export": ExportKind(".pt2"),
    "safetensors": ExportKind(".safetensors", is_graph=False),
}


def check_installed(kind: str) -> None:
    """Raise InputError when a format's packages are not installed."""
    missing = [name for name in KINDS[kind].packages if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"--format {kind} needs {' and '.join(missing)}, not installed here; "
            "run: pip install 'cid_ray[export]'"
        )
