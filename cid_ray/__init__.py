"""cid_ray: Cross-Image Distillation for semi-supervised segmentation, searched and scaled with Ray.

The names below are the Python API; docs/api.md describes it. They are imported at first use, so
that `import cid_ray` loads neither torch nor ray, optuna or pydantic.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cid_ray.config import Config, InputError, build_config, load_config
    from cid_ray.data.sources import open_table
    from cid_ray.inference.load import load_model
    from cid_ray.inference.predictor import Prediction, Predictor
    from cid_ray.results.answers import answer
    from cid_ray.results.records import RecordWriter, of_event, read_records
    from cid_ray.results.run_comparison import compare_runs
    from cid_ray.results.summary import summarize
    from cid_ray.search.controller import Search
    from cid_ray.search.stop_rules import Decision
    from cid_ray.storage.run_dir import RunDir
    from cid_ray.training.launch import train

__all__ = [
    "Config",
    "Decision",
    "InputError",
    "Prediction",
    "Predictor",
    "RecordWriter",
    "RunDir",
    "Search",
    "__version__",
    "answer",
    "build_config",
    "compare_runs",
    "load_config",
    "load_model",
    "of_event",
    "open_table",
    "read_records",
    "summarize",
    "train",
]

_MODULE_OF = {
    "Config": "cid_ray.config",
    "Decision": "cid_ray.search.stop_rules",
    "InputError": "cid_ray.config",
    "Prediction": "cid_ray.inference.predictor",
    "Predictor": "cid_ray.inference.predictor",
    "RecordWriter": "cid_ray.results.records",
    "RunDir": "cid_ray.storage.run_dir",
    "Search": "cid_ray.search.controller",
    "answer": "cid_ray.results.answers",
    "build_config": "cid_ray.config",
    "compare_runs": "cid_ray.results.run_comparison",
    "load_config": "cid_ray.config",
    "load_model": "cid_ray.inference.load",
    "of_event": "cid_ray.results.records",
    "open_table": "cid_ray.data.sources",
    "read_records": "cid_ray.results.records",
    "summarize": "cid_ray.results.summary",
    "train": "cid_ray.training.launch",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """This package with `cid_ray.train` protected from the command of the same name.

    `python -m cid_ray.train` is the module cid_ray/train.py. Python assigns a submodule to its
    package when it is imported, which would replace the function. A property has priority over
    that assignment.
    """

    @property
    def train(self) -> Any:
        return __getattr__("train")

    @train.setter
    def train(self, submodule: ModuleType) -> None:
        """Leave the function in place: `from cid_ray.train import main` finds the module."""


sys.modules[__name__].__class__ = _Package
