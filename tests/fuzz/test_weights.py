"""Law: from a damaged or foreign checkpoint a run continues with exactly the weights that were
saved, or it is refused in one line. The same holds for a file of pretrained weights.
"""

from __future__ import annotations

import copy
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors
import timm
import torch
from hypothesis import given, reject
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

from cid_ray.config import Config, build_config
from cid_ray.core.encoder_weights import load_encoder_weights
from cid_ray.training import checkpoint
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.fuzzing import (
    Change,
    Edit,
    as_json,
    change,
    changes,
    damage,
    edits,
    fuzz,
    result_or_refusal,
    trees,
    written,
)
from tests.helpers.tiny_run import ONE_CLASS, TINY

PARTS = ("student", "teacher", "method", "optimizer", "schedule")


@pytest.fixture(scope="module")
def trainer(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """A trainer of a run whose only checkpoint is of its first step; tests restore it."""
    config = build_config(TINY, {"data.table": str(small_demo)})
    trainer = Trainer(RunSpec(config, tmp_path_factory.mktemp("checkpoints"), num_threads=1))
    # As after a rung: the optimizer has its moments, and there are scores.
    for weight in trainer.student.parameters():
        weight.grad = torch.full_like(weight, 0.01)
    trainer.optimizer.step()
    trainer.step = 6
    scores = {"miou": 10.0, "iou": {}, "absent": []}
    trainer.last_val = {"student": scores, "teacher": scores}
    trainer.best = {"step": 6, "val": trainer.last_val}
    trainer.save()
    return trainer


@pytest.fixture(scope="module")
def last(trainer: Trainer) -> Path:
    return Path(trainer.spec.last_checkpoint)


@pytest.fixture(scope="module")
def whole(last: Path) -> bytes:
    return last.read_bytes()


@pytest.fixture(autouse=True, scope="module")
def put_back(last: Path, whole: bytes) -> Iterator[None]:
    yield
    last.write_bytes(whole)


def _bytes(tensor: torch.Tensor) -> bytes:
    kind = str((tensor.dtype, tuple(tensor.shape))).encode()
    return kind + tensor.detach().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


# ---- checkpoints that are damaged ----


class SmallRun:
    """A network of a few weights and its optimizer, as a run has them: quick to save and load."""

    def __init__(self, folder: Path):
        self.path = folder / "last.pt"
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
        optimizer = torch.optim.AdamW(net.parameters())
        for weight in net.parameters():
            weight.grad = torch.randn_like(weight)
        optimizer.step()
        self.modules: dict[str, Any] = {"student": net, "optimizer": optimizer}
        checkpoint.save_checkpoint(self.path, self.modules, Config(), ONE_CLASS, step=3)
        self.whole = self.path.read_bytes()
        self.state = self.restored()

    def restored(self) -> bytes:
        """Everything that the next step depends on, as bytes."""
        content, _ = checkpoint.load_newest_checkpoint(self.path)
        with checkpoint.content_errors(self.path):
            extra = checkpoint.restore_state(content, self.modules)
        states = [module.state_dict() for module in self.modules.values()]
        found = [*_leaves([states, extra, content["data"]]), torch.get_rng_state()]
        parts = [_bytes(v) if isinstance(v, torch.Tensor) else repr(v).encode() for v in found]
        return b"".join(parts)


def _leaves(tree: Any) -> Iterator[Any]:
    if isinstance(tree, dict):
        for key in sorted(tree, key=str):
            yield key
            yield from _leaves(tree[key])
    elif isinstance(tree, list | tuple):
        for item in tree:
            yield from _leaves(item)
    else:
        yield tree


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return SmallRun(tmp_path_factory.mktemp("small"))


@fuzz(0.8)
@given(edits=edits)
def test_damaged_checkpoint(small_run: SmallRun, edits: list[Edit]) -> None:
    written(small_run.path, damage(small_run.whole, edits))
    assert result_or_refusal(small_run.restored, small_run.path) in (None, small_run.state)


# ---- checkpoints of other content, restored by a whole trainer ----


def continue_run(trainer: Trainer) -> None:
    """What a run does with the restored state at its next rung."""
    trainer.restore()
    for value in trainer.modules()["student"].state_dict().values():
        assert torch.isfinite(value).all()
    trainer.health.record_fields()
    trainer.save()


@fuzz(0.05)
@given(changes=changes)
def test_changed_plain_values_of_a_checkpoint(
    trainer: Trainer, last: Path, whole: bytes, changes: list[Change]
) -> None:
    content = torch.load(io.BytesIO(whole), weights_only=True)
    content["extra"] = as_json(change(json.loads(content["extra"]), changes)).decode()
    torch.save(content, last)
    result_or_refusal(lambda: continue_run(trainer), last)


tensors = st.sampled_from(
    [
        torch.zeros(()),
        torch.zeros(0),
        torch.full((1,), float("nan")),
        torch.ones(3, dtype=torch.int64),
        torch.ones(1, dtype=torch.complex64),
        torch.zeros(4).to_sparse(),
        torch.ones(2, 3, dtype=torch.float64),
        torch.ones(5, dtype=torch.bool),
        torch.zeros(8, device="meta"),
    ]
)
VARIANTS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "float64": torch.Tensor.double,
    "int64": torch.Tensor.long,
    "bfloat16": torch.Tensor.bfloat16,
    "nan": lambda tensor: torch.where(tensor == tensor, torch.nan, tensor),
    "flipped": lambda tensor: tensor.flip(0) if tensor.dim() else tensor,
    "meta": lambda tensor: tensor.to("meta"),
    "complex": lambda tensor: tensor.to(torch.complex64),
}


@fuzz(0.05)
@given(
    part=st.sampled_from([*PARTS, "rng", "cuda_rng", "config", "classes"]),
    position=st.integers(0, 10**6),
    value=st.one_of(st.sampled_from(sorted(VARIANTS)), tensors, trees),
    remove=st.booleans(),
)
def test_changed_states_of_a_checkpoint(
    trainer: Trainer, last: Path, whole: bytes, part: str, position: int, value: Any, remove: bool
) -> None:
    """A value of a state is missing or of another type, shape or number of bits."""
    content = torch.load(io.BytesIO(whole), weights_only=True)
    parent: Any = content
    key: Any = part
    while isinstance(parent[key], dict | list) and parent[key] and position % 8:
        parent = parent[key]
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        key = keys[position % len(keys)]
        position //= 3
    if remove:
        del parent[key]
    else:
        parent[key] = _changed_tensor(parent[key], value)
    expected = copy.deepcopy(content)
    try:
        torch.save(content, last)
    except (RuntimeError, NotImplementedError):
        reject()  # torch writes no such file

    def read() -> bytes:
        trainer.restore()
        return b"".join(_bytes(v) for v in trainer.student.state_dict().values())

    found = result_or_refusal(read, last)
    if found is not None:
        student = expected["student"]
        own = trainer.student.state_dict()
        assert found == b"".join(_bytes(student[name].to(own[name].dtype)) for name in own)


def _changed_tensor(tensor: Any, value: Any) -> Any:
    """`value`, or what it names: the same tensor of another type or order."""
    if not (isinstance(tensor, torch.Tensor) and isinstance(value, str) and value in VARIANTS):
        return value
    return VARIANTS[value](tensor)


@fuzz(0.1)
@given(tree=st.one_of(trees, tensors, st.lists(tensors, max_size=3)))
def test_foreign_checkpoint(trainer: Trainer, last: Path, tree: Any) -> None:
    try:
        torch.save(tree, last)
    except (RuntimeError, NotImplementedError):
        reject()  # torch writes no such file
    assert result_or_refusal(lambda: checkpoint.load_newest_checkpoint(last), last) is None


# ---- pretrained weights ----


@pytest.fixture(scope="module")
def encoder() -> nn.Module:
    net: nn.Module = timm.create_model("test_efficientnet", features_only=True)
    return net


@pytest.fixture(scope="module")
def published(encoder: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file({name: value.clone() for name, value in encoder.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def safe(published: Path) -> bytes:
    return published.read_bytes()


def check_weights(encoder: nn.Module, path: Path) -> None:
    """The weights that are loaded are those of the file, value for value, and finite."""

    def load() -> bool:
        load_encoder_weights(encoder, path)
        return True

    if not result_or_refusal(load, path):
        return
    with safetensors.safe_open(path, framework="pt") as file:
        own = encoder.state_dict()
        for name in own.keys() & set(file.keys()):
            stated = file.get_tensor(name)
            assert torch.isfinite(own[name]).all()
            assert stated.is_floating_point() == own[name].is_floating_point()
            assert torch.equal(stated.to(own[name].dtype), own[name])


@fuzz(0.6)
@given(edits=edits, header_only=st.booleans())
def test_damaged_weights(
    encoder: nn.Module, published: Path, safe: bytes, edits: list[Edit], header_only: bool
) -> None:
    end = 8 + int.from_bytes(safe[:8], "little") if header_only else len(safe)
    check_weights(encoder, written(published, damage(safe[:end], edits) + safe[end:]))


@fuzz(0.4)
@given(changes=changes)
def test_changed_weights_header(
    encoder: nn.Module, published: Path, safe: bytes, changes: list[Change]
) -> None:
    length = int.from_bytes(safe[:8], "little")
    header = as_json(change(json.loads(safe[8 : 8 + length]), changes))
    content = len(header).to_bytes(8, "little") + header + safe[8 + length :]
    check_weights(encoder, written(published, content))
