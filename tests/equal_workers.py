"""The same training on any number of workers: real processes (gloo, CPU, float32), compared step by step.

Float32 rounds differently when a sum is split, and a ReLU or a hard pseudo-label turns such a difference into a jump:
on ONE worker, weights that differ by 1e-7 part the gradients by 1e-3 within five steps. So the comparison is made with
smooth activations and soft labels. Two ways: every step from the single worker's state (`forced`), and a run of its
own (`free`).
"""

from __future__ import annotations

import shutil
import socket
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn

from cid_ray.config import Config, override
from cid_ray.core.method import feeds_pool
from cid_ray.data.batches import Plan, local_batches
from cid_ray.run import state
from cid_ray.run.run import Job, Run

Steps = list[dict[str, torch.Tensor]]
BASE: dict[str, Any] = {
    "data.table": "demo", "data.label_from": "one_group", "data.crop_size": 64, "data.scale": [0.75, 1.5],
    "data.batch_size": 8, "data.batch_size_u": 8, "data.ratio": "1/8", "model.encoder": "test_efficientnet",
    "model.decoder": "fpn", "train.device": "cpu",
    "model.decoder_options": {
        "decoder_dropout": 0.2, "decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64,
    },
    "optim.name": "sgd", "optim.lr": 1e-4, "optim.head_lr_mult": 1.0, "loss.conf_thresh": 0.0,
    "loss.pseudo": "soft", "loss.pseudo_burn_in": 0.0, "loss.pseudo_ramp": 0.1, "loss.relation_ramp": 0.1,
}  # fmt: skip


def config_of(kind: str, steps: int, **changes: Any) -> Config:
    return override({}, {**BASE, "loss.relation_kind": kind, "train.steps": steps, **changes})


def follow(
    config: Config, root: Path, rank: int = 0, world: int = 1, forced: bool = False, jolt: float = 0.0,
    smoothed: bool = True, evaluated: bool = False,
) -> Steps:  # fmt: skip
    """After every step `loss/NAME`, `grad/NAME` and `weight/NAME` as this worker sees them.

    The last one holds, if asked for, `val/NAME`: the IoU of every class, of teacher and student, at the beginning.

    One worker leaves its state before every step in `root`; `forced` takes it from there. `jolt` changes every weight
    by about that share of itself at the start.
    """
    run = Run(Job(config, root / "run", rank=rank, world=world, threads=1))
    if smoothed:
        smooth(run.student)
        smooth(run.teacher.module)
    with torch.no_grad():
        noise = torch.Generator().manual_seed(0)
        for value in run.student.parameters():
            value.mul_(1 + jolt * torch.randn(value.shape, generator=noise))
    plan = Plan.of(config.data, run.split, config.train.seed, feeds_pool(config.method))
    scores = run.evaluate("val") if evaluated else {}
    found: Steps = []
    for batch in local_batches(run.reader, plan, config.data, 0, config.train.steps, rank, world):
        before = root / f"step-{run.step}.pt"
        if forced:
            state.restore(state.load(before), run.modules())
        elif world == 1 and not jolt:
            run.save()
            shutil.move(run.job.last, before)
        losses = run.mean_over_workers(run.train_step(batch).floats())
        seen = {f"loss/{name}": torch.tensor(value) for name, value in losses.items()}
        seen |= {f"grad/{n}": p.grad.clone() for n, p in run.student.named_parameters() if p.grad is not None}
        weights = run.student.state_dict()
        found.append(seen | {f"weight/{n}": v.clone() for n, v in weights.items() if v.is_floating_point()})
    for name, scored in scores.items():
        found[-1][f"val/{name}"] = torch.tensor([float("nan") if v is None else v for v in scored["iou"].values()])
    return found


def smooth(net: nn.Module) -> None:
    """Every ReLU becomes a SiLU."""
    for name, child in net.named_children():
        if isinstance(child, nn.ReLU):
            setattr(net, name, nn.SiLU())
        smooth(child)


Way = tuple[str, dict[str, bool]]  # a configuration and options of `follow`


def worker(rank: int, world: int, port: int, root: str, ways: list[Way]) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    found = [follow(Config.model_validate_json(c), Path(root), rank, world, **options) for c, options in ways]
    if rank == 0:
        torch.save(found, Path(root) / "found.pt")
    torch.distributed.destroy_process_group()


def all_on_workers(ways: list[Way], root: Path, world: int) -> list[Steps]:
    """Several trainings, one after the other, in the same processes."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    mp.spawn(worker, (world, port, str(root), ways), nprocs=world)
    found: list[Steps] = torch.load(root / "found.pt", weights_only=True)
    return found


def on_workers(config: Config, root: Path, world: int) -> tuple[Steps, Steps]:
    """Forced and free; `root` holds the states of the single worker."""
    text = config.model_dump_json()
    forced, free = all_on_workers([(text, {"forced": True}), (text, {"forced": False})], root, world)
    return forced, free


def apart(one: Steps, other: Steps) -> dict[str, float]:
    """The largest difference over all steps, of losses, gradients and weights; relative where a value exceeds 1."""
    worst = {"loss": 0.0, "grad": 0.0, "weight": 0.0}
    for mine, theirs in zip(one, other, strict=True):
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            part = name.split("/")[0]
            worst[part] = max(worst[part], float((value - theirs[name]).abs().max() / value.abs().max().clamp(min=1)))
    return worst
