"""Reference: the EMA teacher's published ramp, alpha_t = min(1 - 1/(t+1), decay), in plain code."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from cid_ray.config import build_config
from cid_ray.core.model import make_teacher
from cid_ray.data.loader import local_batches
from cid_ray.data.sampling import SamplingPlan
from cid_ray.training.trainer import RunSpec, Trainer
from tests.helpers.core_pieces import prefix
from tests.helpers.tiny_run import TINY

DECAY = 0.9  # of the shortest span


def small_student() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def alpha(t: int) -> float:
    return min(1 - 1 / (t + 1), DECAY)


def test_teacher_after_updates_averages_weights_and_float_buffers_by_the_published_ramp() -> None:
    """t counts updates from 0; integer buffers are copied."""
    student = small_student()
    teacher = make_teacher(student, DECAY)
    expected = {name: value.clone() for name, value in student.state_dict().items()}
    for t in range(14):
        with torch.no_grad():
            for value in student.parameters():
                value.add_(torch.randn_like(value))
        student(torch.randn(2, 3, 8, 8))
        teacher.update(student, step=t)
        for name, value in student.state_dict().items():
            if value.is_floating_point():
                expected[name] = alpha(t) * expected[name] + (1 - alpha(t)) * value
            else:
                expected[name] = value.clone()
        found = dict(teacher.module.state_dict())
        torch.testing.assert_close(found, expected, msg=prefix(f"update {t}"))


def test_teacher_of_a_trainer_follows_the_published_ramp(tmp_path: Path) -> None:
    changes = {"method": "supervised", "data.batch_size": 2, "train.ema_span": 0.05}
    config = build_config(TINY, changes)
    trainer = Trainer(RunSpec(config, tmp_path, num_threads=1))
    plan = SamplingPlan.create(config.data, trainer.split, config.train.seed, config.uses_unlabeled)
    expected = {k: v.detach().clone() for k, v in trainer.student.named_parameters()}
    for t, batch in enumerate(local_batches(trainer.reader, plan, config.data, 0, 12)):
        trainer.train_step(batch)
        for name, value in trainer.student.named_parameters():
            expected[name] = alpha(t) * expected[name] + (1 - alpha(t)) * value.detach()
        found = dict(trainer.teacher.module.named_parameters())
        torch.testing.assert_close(found, expected, msg=prefix(f"step {t}"))


def test_teacher_is_in_eval_mode_without_gradients() -> None:
    teacher = make_teacher(small_student(), 0.9)
    assert not any(m.training for m in teacher.modules())
    assert not any(p.requires_grad for p in teacher.parameters())
