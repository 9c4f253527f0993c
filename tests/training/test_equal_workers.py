"""Law: neither the number of workers nor micro-batches change losses, gradients, weights or scores.

The reference is one worker with the whole batch; benchmarks/harness/equal_workers.py says how they
are compared.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.harness.equal_workers import (
    Job,
    Trace,
    forced_and_free,
    largest_differences,
    make_config,
    run_on_workers,
    trace_training,
)
from cid_ray.config import Config, InputError, build_config
from cid_ray.core.dropout import BatchIndex, convert_dropout
from cid_ray.core.grad_cache import MicroBatched
from cid_ray.training.builders import num_micro_batches
from cid_ray.training.loop import make_batches
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.ports import free_port
from tests.helpers.tiny_run import TINY, TINY_VIT

pytestmark = pytest.mark.process

STEPS = 20
TOLERANCE = 1e-4
NO_BATCH_NORM = {"model.encoder": "test_convnext"}
KINDS = ("self", "cross", "transfer", "class", "self_training")


def assert_close(
    one: Trace, other: Trace, parts: tuple[str, ...] = ("loss", "grad", "weight")
) -> None:
    differences = largest_differences(one, other)
    assert all(differences[part] < TOLERANCE for part in parts), differences


def prefixed(name: str, message: str) -> str:
    return f"{name}: {message}"


def of_kind(kind: str) -> dict[str, str]:
    """CID with a relation kind, or self-training."""
    return {"method": kind} if kind == "self_training" else {"loss.relation_kind": kind}


def default_config(kind: str) -> Config:
    """Hard pseudo-labels, ReLUs, a confidence threshold. A step of each round of self-training."""
    changes = {
        **of_kind(kind),
        "loss.conf_thresh": 0.2,
        "data.crop_size": 64,
        "optim.lr": 1e-3,
        "train.steps": 2,
    }
    return build_config(TINY, changes)


@pytest.fixture(scope="module")
def traces_of_two_workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trace]:
    options = {"smooth": False, "evaluate": True}
    jobs: list[Job] = [(default_config(kind).model_dump_json(), options) for kind in KINDS]
    traces = run_on_workers(jobs, tmp_path_factory.mktemp("two"), 2)
    return dict(zip(KINDS, traces, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_default_config_equal_one_worker(
    traces_of_two_workers: dict[str, Trace], tmp_path: Path, kind: str
) -> None:
    """The evaluation bit for bit, losses and weights up to rounding."""
    single = trace_training(default_config(kind), tmp_path, smooth=False, evaluate=True)
    two = traces_of_two_workers[kind]
    for name in ("val/teacher", "val/student"):
        assert single[-1][name].isfinite().any()
        torch.testing.assert_close(two[-1][name], single[-1][name], rtol=0, atol=0, equal_nan=True)
    for mine, theirs in zip(single, two, strict=True):
        assert theirs.keys() == mine.keys()
        for name, value in mine.items():
            if not name.startswith("grad/") and name != "loss/mask_ratio":
                torch.testing.assert_close(
                    theirs[name], value, atol=1e-4, rtol=1e-3, msg=partial(prefixed, name)
                )


def slow(*values: object) -> object:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("kind", "world_size"),
    [
        slow("self", 2),
        slow("class", 2),
        ("cross", 3),
        slow("transfer", 4),
        slow("self_training", 2),
    ],
)
def test_any_number_of_workers_smooth_config_equals_one_worker(
    tmp_path: Path, kind: str, world_size: int
) -> None:
    """Three workers hold 8 images as 2, 3, 3 and 2, 2, 4."""
    config = make_config("self", STEPS, **of_kind(kind))
    single = trace_training(config, tmp_path)
    forced, free = forced_and_free(config, tmp_path, world_size)
    assert_close(single, forced)
    assert_close(single, free, ("loss", "weight"))
    learned = largest_differences(single[:-1], single[1:])["weight"]
    assert learned > TOLERANCE, "nothing was learned: the comparison says nothing"


def test_two_workers_with_dpt_on_a_vit_equal_one_worker(tmp_path: Path) -> None:
    """DDP waits for the gradient of every weight; a frozen encoder has none."""
    choices = [{**TINY_VIT, "model.freeze": freeze} for freeze in ("none", "encoder")]
    configs = [make_config("self", 2, **changes) for changes in choices]
    traces = run_on_workers([(config.model_dump_json(), {}) for config in configs], tmp_path, 2)
    for config, trace in zip(configs, traces, strict=True):
        assert_close(trace_training(config, tmp_path), trace, ("loss", "weight"))


@pytest.mark.parametrize("kind", [slow("self"), "cross", slow("transfer"), slow("class")])
def test_micro_batches_without_batch_norm_equal_whole_batch(tmp_path: Path, kind: str) -> None:
    """Batch norm would normalise every part by itself. Parts of 6 of 16 images: 6, 5, 5."""
    single = trace_training(make_config(kind, STEPS, **NO_BATCH_NORM), tmp_path)
    micro = make_config(kind, STEPS, **NO_BATCH_NORM, **{"train.micro_batch_size": 6})
    assert num_micro_batches(micro, 1) == 3
    assert_close(single, trace_training(micro, tmp_path, forced=True))


@pytest.mark.slow
def test_micro_batches_on_three_workers_equal_one_worker(tmp_path: Path) -> None:
    single = trace_training(make_config("cross", 4, **NO_BATCH_NORM), tmp_path)
    micro = make_config("cross", 4, **NO_BATCH_NORM, **{"train.micro_batch_size": 4})
    assert_close(single, forced_and_free(micro, tmp_path, 3)[0])


def test_micro_batches_supervised_equal_whole_batch(tmp_path: Path) -> None:
    changes = {**NO_BATCH_NORM, "method": "supervised"}
    single = trace_training(make_config("self", 3, **changes), tmp_path)
    micro = make_config("self", 3, **changes, **{"train.micro_batch_size": 2})
    assert_close(single, trace_training(micro, tmp_path, forced=True))


def test_micro_batches_two_passes_same_dropout_and_one_statistics_update() -> None:
    conv, norm = torch.nn.Conv2d(3, 4, 1), torch.nn.BatchNorm2d(4)
    net = torch.nn.Sequential(conv, norm, torch.nn.Dropout(0.5))
    index = BatchIndex(torch.arange(6), 6, seed=0)
    convert_dropout(net, index)

    class Pair(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = self.net(x)
            return out, 2 * out

    images = torch.randn(6, 3, 4, 4)
    outputs: list[torch.Tensor] = []
    net.register_forward_hook(lambda *args: outputs.append(args[2].detach().clone()))
    whole = MicroBatched(Pair(), 2, torch.enable_grad, index)
    logits, feat = whole(images)
    assert norm.num_batches_tracked == torch.tensor(0)
    (logits.sum() + feat.square().sum()).backward()
    whole.backward()
    assert norm.num_batches_tracked == torch.tensor(2)
    assert len(outputs) == 4
    assert torch.equal(outputs[0], outputs[2]) and torch.equal(outputs[1], outputs[3])
    assert conv.weight.grad is not None and not whole.pending


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "expected"),
    [(1, None, 1), (1, 16, 1), (1, 6, 3), (2, 6, 2), (3, 4, 2), (4, 2, 2)],
)
def test_num_micro_batches_unequal_shards_equal_on_all_workers(
    world_size: int, micro_batch_size: int | None, expected: int
) -> None:
    config = make_config("self", 1, **{"train.micro_batch_size": micro_batch_size})
    assert num_micro_batches(config, world_size) == expected


def build_with_own_folder(rank: int, port: int, folder: str) -> None:
    """A worker of two, each with a folder of its own."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    spec = RunSpec(
        make_config("self", 3), Path(folder) / str(rank), rank=rank, world_size=2, num_threads=1
    )
    rule = r"different steps, 1, 0.*--out must be a folder that all nodes share"
    with pytest.raises(InputError, match=rule):
        Trainer(spec)
    torch.distributed.destroy_process_group()


def test_workers_with_different_checkpoints_are_refused(tmp_path: Path) -> None:
    trainer = Trainer(RunSpec(make_config("self", 3), tmp_path / "0", num_threads=1))
    trainer.train_step(next(make_batches(trainer)))
    trainer.save()
    torch.multiprocessing.spawn(build_with_own_folder, (free_port(), str(tmp_path)), nprocs=2)
