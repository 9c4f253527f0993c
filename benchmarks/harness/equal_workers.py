"""The same training on any number of workers, compared step by step: gloo, float32.

Float32 rounds differently when a sum is split. A ReLU or a hard pseudo-label turns such a
difference into a jump: on ONE worker, weights that differ by 1e-7 part the gradients by 1e-3 within
five steps. So the comparison uses smooth activations and soft pseudo-labels, in two ways: every
step starts from the single worker's state (`forced`), or the run is on its own (free).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
from torch import nn

from benchmarks.harness.ports import free_port
from cid_ray.config import Config, build_config
from cid_ray.data.loader import local_batches
from cid_ray.data.sampling import SamplingPlan
from cid_ray.training import checkpoint
from cid_ray.training.collectives import mean_values
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer

Trace = list[dict[str, torch.Tensor]]  # for each step: "loss/NAME", "grad/NAME", "weight/NAME"
Job = tuple[str, dict[str, bool]]  # a configuration as JSON, and options of `trace_training`
BASE: dict[str, Any] = {
    "data.table": "demo",
    "data.label_from": "one_group",
    "data.crop_size": 64,
    "data.scale_range": [0.75, 1.5],
    "data.batch_size": 8,
    "data.batch_size_u": 8,
    "data.ratio": "1/8",
    "model.encoder": "test_efficientnet",
    "model.decoder": "fpn",
    "train.device": "cpu",
    "model.decoder_options": {
        "decoder_dropout": 0.2,
        "decoder_pyramid_channels": 128,
        "decoder_segmentation_channels": 64,
    },
    "optim.name": "sgd",
    "optim.lr": 1e-4,
    "optim.head_lr_mult": 1.0,
    "loss.conf_thresh": 0.0,
    "loss.pseudo": "soft",
    "loss.pseudo_burn_in": 0.0,
    "loss.pseudo_ramp": 0.1,
    "loss.relation_ramp": 0.1,
}


def make_config(kind: str, steps: int, **changes: Any) -> Config:
    """A configuration with a relation kind; `changes` are by dotted key."""
    return build_config({}, {**BASE, "loss.relation_kind": kind, "train.steps": steps, **changes})


def trace_training(
    config: Config,
    folder: Path,
    rank: int = 0,
    world_size: int = 1,
    *,
    forced: bool = False,
    perturbation: float = 0.0,
    smooth: bool = True,
    evaluate: bool = False,
) -> Trace:
    """Train, and record losses, gradients and weights after every step as this worker sees them.

    Args:
        config: the configuration; its first step is 0.
        folder: one worker leaves its state before every step here.
        rank: this worker.
        world_size: number of workers.
        forced: start every step from the state that the single worker left.
        perturbation: change every first weight by about this fraction of itself.
        smooth: SiLU instead of ReLU.
        evaluate: the last step also gets "val/NAME": the first IoU of each class of teacher and
            student.
    """
    spec = RunSpec(config, folder / "run", rank=rank, world_size=world_size, num_threads=1)
    trainer = Trainer(spec)
    if smooth:
        replace_relus(trainer.student)
        replace_relus(trainer.teacher.module)
    perturb(trainer.student, perturbation)
    plan = SamplingPlan.create(config.data, trainer.split, config.train.seed, config.uses_unlabeled)
    scores = trainer.evaluate("val") if evaluate else {}
    batches = local_batches(
        trainer.reader, plan, config.data, 0, config.train.steps, rank, world_size
    )
    trace: Trace = []
    for batch in batches:
        state = folder / f"step-{trainer.step}.pt"
        if forced:
            checkpoint.restore_state(checkpoint.load_checkpoint(state), trainer.modules())
        elif world_size == 1 and not perturbation:
            trainer.save()
            shutil.move(spec.last_checkpoint, state)
        losses = mean_values(trainer.train_step(batch).to_floats(), trainer.device.torch)
        trace.append({**loss_values(losses), **grads(trainer.student), **weights(trainer.student)})
    for network, values in scores.items():
        ious = [float("nan") if iou is None else iou for iou in values["iou"].values()]
        trace[-1][f"val/{network}"] = torch.tensor(ious)
    return trace


def loss_values(losses: dict[str, float]) -> dict[str, torch.Tensor]:
    return {f"loss/{name}": torch.tensor(value) for name, value in losses.items()}


def grads(net: nn.Module) -> dict[str, torch.Tensor]:
    named = net.named_parameters()
    return {f"grad/{name}": p.grad.cpu().clone() for name, p in named if p.grad is not None}


def weights(net: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and running statistics."""
    state = net.state_dict()
    return {f"weight/{n}": v.cpu().clone() for n, v in state.items() if v.is_floating_point()}


def perturb(net: nn.Module, fraction: float) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in net.parameters():
            value.mul_(
                1 + fraction * torch.randn(value.shape, generator=generator).to(value.device)
            )


def replace_relus(net: nn.Module) -> None:
    """Every ReLU becomes a SiLU."""
    for name, child in net.named_children():
        if isinstance(child, nn.ReLU):
            setattr(net, name, nn.SiLU())
        replace_relus(child)


def worker_main(rank: int, world_size: int, port: int, folder: str, jobs: list[Job]) -> None:
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world_size
    )
    traces = [
        trace_training(Config.model_validate_json(text), Path(folder), rank, world_size, **options)
        for text, options in jobs
    ]
    if rank == 0:
        torch.save(traces, Path(folder) / "traces.pt")
    torch.distributed.destroy_process_group()


def run_on_workers(jobs: list[Job], folder: Path, world_size: int) -> list[Trace]:
    """Several trainings, one after the other, in the same processes; what rank 0 saw."""
    arguments = (world_size, free_port(), str(folder), jobs)
    mp.spawn(worker_main, arguments, nprocs=world_size)
    traces: list[Trace] = torch.load(folder / "traces.pt", weights_only=True)
    return traces


def forced_and_free(config: Config, folder: Path, world_size: int) -> tuple[Trace, Trace]:
    """Both ways to compare; `folder` holds the states of the single worker."""
    text = config.model_dump_json()
    jobs: list[Job] = [(text, {"forced": True}), (text, {"forced": False})]
    forced, free = run_on_workers(jobs, folder, world_size)
    return forced, free


def largest_differences(one: Trace, other: Trace) -> dict[str, float]:
    """The largest difference of any loss, gradient and weight; relative where a value exceeds 1."""
    largest = {"loss": 0.0, "grad": 0.0, "weight": 0.0}
    for values, other_values in zip(one, other, strict=True):
        assert values.keys() == other_values.keys()
        for name, value in values.items():
            scale = value.abs().max().clamp(min=1)
            difference = float((value - other_values[name]).abs().max() / scale)
            part = name.split("/")[0]
            largest[part] = max(largest[part], difference)
    return largest
