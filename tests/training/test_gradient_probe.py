"""Laws of the gradients in a rung's record: they add up, leave no trace, and follow the weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cid_ray.config import build_config
from cid_ray.core.method import LossTerms
from cid_ray.training import loop
from cid_ray.training.gradient_probe import gradient_fields
from cid_ray.training.loop import make_batches, train
from cid_ray.training.trainer import RunSpec, Trainer
from tests.helpers.tiny_run import TINY

AT_WORK = {
    "loss.conf_thresh": 0.2,
    "loss.pseudo_ramp": 0.0,
    "loss.relation_ramp": 0.0,
    "loss.style_ramp": 0.0,
}


def make_trainer(root: Path, **changes: Any) -> tuple[Trainer, dict[str, Any]]:
    """A trainer after one step, and the step's batch."""
    trainer = Trainer(RunSpec(build_config(TINY, {**AT_WORK, **changes}), root, num_threads=1))
    batch = next(iter(make_batches(trainer)))
    trainer.train_step(batch)
    return trainer, batch


def squared_norm_of_total(trainer: Trainer, batch: dict[str, Any]) -> tuple[float, float]:
    """Squared lengths of the gradients of the total and of half of the supervised loss."""
    tensors = {name: trainer.device.tensor(value) for name, value in batch.items()}
    terms: LossTerms = trainer.method(trainer.student, trainer.predict, tensors, trainer.step - 1)
    weights = [p for p in trainer.student.parameters() if p.requires_grad]
    lengths = []
    for loss in (terms.total, terms.sup / 2):
        found = torch.autograd.grad(
            loss, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        lengths.append(sum(float(gradient.double().square().sum()) for gradient in found))
    return lengths[0], lengths[1]


@pytest.mark.parametrize(
    ("changes", "term"),
    [
        ({"method": "mean_teacher"}, "pseudo"),
        ({"method": "cid", "loss.pseudo_weight": 0.0, "loss.style_weight": 0.0}, "relation"),
        ({"method": "cid", "loss.pseudo_weight": 0.0, "loss.relation_weight": 0.0}, "style"),
    ],
)
def test_cosine_and_norm_give_the_length_of_the_whole_gradient(
    changes: dict[str, Any], term: str, tmp_path: Path
) -> None:
    """|a + b|^2 = |a|^2 (1 + 2 cosine norm + norm^2)."""
    trainer, batch = make_trainer(tmp_path, **changes)
    fields = gradient_fields(trainer, batch)
    assert set(fields) == {term}
    cosine, norm = fields[term]["cosine"], fields[term]["norm"]
    assert cosine is not None and norm is not None and norm > 0 and -1 <= cosine <= 1
    total, sup = squared_norm_of_total(trainer, batch)
    assert total == pytest.approx(sup * (1 + 2 * cosine * norm + norm**2), rel=1e-3)


def test_norm_is_proportional_to_the_weight_and_the_cosine_does_not_depend_on_it(
    tmp_path: Path,
) -> None:
    found = []
    for weight in (0.1, 0.2):
        changes = {"method": "cid", "loss.relation_weight": weight, "optim.lr": 1e-9}
        trainer, batch = make_trainer(tmp_path / str(weight), **changes)
        found.append(gradient_fields(trainer, batch)["relation"])
    one, two = found
    assert one["norm"] and two["norm"] == pytest.approx(2 * one["norm"], rel=1e-3)
    assert two["cosine"] == pytest.approx(one["cosine"], abs=1e-3)


@pytest.mark.parametrize("base", ["mean_teacher", "unimatch_v2"])
def test_probe_leaves_no_trace(base: str, tmp_path: Path) -> None:
    changes = {
        "method": "cid",
        "loss.base": base,
        "loss.relation_kind": "class",
        "loss.labeled_memory": 4,
        "loss.threshold": "class_adaptive",
        "loss.align_distribution": True,
    }
    trainer, batch = make_trainer(tmp_path, **changes)
    tensors = {**trainer.student.state_dict(), **trainer.method.state_dict()}
    before = {name: value.clone() for name, value in tensors.items()}
    gradients = [p.grad.clone() for p in trainer.student.parameters() if p.grad is not None]
    rng = torch.get_rng_state()
    assert set(gradient_fields(trainer, batch)) == {"pseudo", "relation", "style"}
    after = {**trainer.student.state_dict(), **trainer.method.state_dict()}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    now = [p.grad for p in trainer.student.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))
    assert torch.equal(rng, torch.get_rng_state())


def test_records_of_rungs_have_the_gradients_and_a_run_is_the_same_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = build_config(TINY, {**AT_WORK, "method": "cid"})
    probed = list(train(RunSpec(config, tmp_path / "one", num_threads=1)))
    monkeypatch.setattr(loop, "gradient_fields", lambda trainer, batch: {})
    plain = list(train(RunSpec(config, tmp_path / "two", num_threads=1)))
    rungs = [record for record in probed if record["event"] == "rung"]
    assert rungs and all(set(r["gradients"]) == {"pseudo", "relation", "style"} for r in rungs)
    assert json.loads(json.dumps(rungs[-1]["gradients"], allow_nan=False))
    for key in ("val/miou", "val/miou_teacher"):
        assert probed[-1][key] == plain[-1][key]
    last = [[r["losses"] for r in records if r["event"] == "rung"] for records in (probed, plain)]
    assert last[0] == last[1]


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "supervised"},
        {"method": "cid", "train.micro_batch_size": 2, "data.crop_size": 64},
    ],
    ids=["supervised", "micro-batches"],
)
def test_nothing_is_measured_without_a_pool_or_in_micro_batches(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    trainer, batch = make_trainer(tmp_path, **changes)
    assert gradient_fields(trainer, batch) == {}


def test_gradient_of_a_term_that_is_zero_has_no_direction(tmp_path: Path) -> None:
    """With a threshold that nothing reaches, L_u is 0 and so is its gradient."""
    trainer, batch = make_trainer(tmp_path, method="mean_teacher", **{"loss.conf_thresh": 1.0})
    fields = gradient_fields(trainer, batch)
    assert fields["pseudo"] == {"cosine": None, "norm": None}
    assert not any(isinstance(v, float) and math.isnan(v) for v in fields["pseudo"].values())
