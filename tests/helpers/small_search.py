"""A search of seconds for `tune`: its config file, and the states of its trials."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.helpers.tiny_run import TINY

METHODS = ("supervised", "pool_bn", "mean_teacher", "cid")


def space_file(folder: Path, table: Path, **search: Any) -> Path:
    """Write `folder/space.yaml`: two ratios, three CID trials each; `search` changes the rest."""
    config = {
        **TINY,
        "data": {**TINY["data"], "table": str(table)},
        "train": {"steps": 6, "rungs": [0.5, 1.0], "num_sample_images": 2},
        "search": {
            "ratios": ["1/8", "1/4"],
            "trials": 3,
            "space": {
                "loss.relation_kind": {"choice": ["self", "cross", "transfer", "class"]},
                "loss.relation_weight": {"float": [0.01, 1.0], "log": True},
            },
            "pruner": {"name": "SuccessiveHalvingPruner", "args": {"reduction_factor": 2}},
            **search,
        },
    }
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def states(out: Path) -> dict[str, Counter[str]]:
    """Study name -> how many of its trials are in each of Optuna's states."""
    storage = JournalStorage(JournalFileBackend(str(out / "study.journal")))
    return {
        name: Counter(
            trial.state.name for trial in optuna.load_study(study_name=name, storage=storage).trials
        )
        for name in optuna.get_all_study_names(storage)
    }
