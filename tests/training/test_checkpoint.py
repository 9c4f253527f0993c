"""Checkpoints that are damaged, missing or not ours: an older one, or one line of what is wrong."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from cid_ray.config import InputError, build_config
from cid_ray.training import checkpoint
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.tiny_run import TINY

FLIPS = 150


@pytest.fixture(scope="module")
def spec(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> RunSpec:
    """A run with checkpoints of steps 0, 1 and 2."""
    changes = {"data.table": str(small_demo), "train.num_to_keep": 3}
    folder = tmp_path_factory.mktemp("checkpoints")
    spec = RunSpec(build_config(TINY, changes), folder, num_threads=1)
    trainer = Trainer(spec)
    for step in range(3):
        trainer.step = step
        trainer.save()
    return spec


@pytest.fixture
def last(spec: RunSpec) -> Any:
    """The newest checkpoint; it is put back afterwards."""
    path = Path(spec.last_checkpoint)
    content = path.read_bytes()
    yield path
    path.write_bytes(content)


def values(content: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for part in ("student", "teacher", "method"):
        flat |= {f"{part}.{name}": value for name, value in content[part].items()}
    return flat


def test_flipped_bit_anywhere_is_noticed_or_harmless(last: Path) -> None:
    """Of 150 flips most are in tensors; a few are in padding that nobody reads."""
    whole = last.read_bytes()
    expected = checkpoint.load_checkpoint(last)
    rng = random.Random(0)
    refused = []
    for _ in range(FLIPS):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        last.write_bytes(damaged)
        try:
            found = checkpoint.load_checkpoint(last)
        except InputError as error:
            refused.append(str(error))
            continue
        assert found["extra"] == expected["extra"]
        for name, value in values(expected).items():
            assert torch.equal(values(found)[name], value), name
    assert len(refused) > FLIPS / 2
    assert all("cannot be read" in message and "\n" not in message for message in refused)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", bytes(range(256)) * 9])
def test_file_that_is_no_checkpoint_falls_back_to_the_one_before(
    spec: RunSpec, last: Path, content: bytes
) -> None:
    last.write_bytes(content)
    trainer = Trainer(spec)
    assert trainer.step == 1
    (warning,) = trainer.health.state.warnings
    assert "cannot be read" in warning and "resuming from the checkpoint before it" in warning


def test_removed_checkpoint_falls_back_to_the_one_before(spec: RunSpec, last: Path) -> None:
    last.unlink()
    trainer = Trainer(spec)
    assert trainer.step == 1
    (warning,) = trainer.health.state.warnings
    assert "does not exist; resuming from the checkpoint before it" in warning


def rewrite(path: Path, change: Any) -> None:
    content = torch.load(path, weights_only=True)
    content["extra"] = json.loads(content["extra"])
    change(content)
    content["extra"] = json.dumps(content["extra"])
    torch.save(content, path)


PARTS = ("student", "teacher", "method", "optimizer", "schedule", "rng", "cuda_rng")
FIELDS = ("step", "seconds", "best", "last_val", "last_rung", "health", "identity")


@pytest.mark.parametrize("part", PARTS)
def test_checkpoint_without_a_part_is_refused_in_one_line(
    spec: RunSpec, last: Path, part: str
) -> None:
    rewrite(last, lambda content: content.pop(part))
    with pytest.raises(InputError, match=r"last\.pt does not fit this run \(KeyError") as error:
        Trainer(spec)
    assert "\n" not in str(error.value) and "remove it to train from the start" in str(error.value)


@pytest.mark.parametrize("field", FIELDS)
def test_checkpoint_without_a_field_is_refused_in_one_line(
    spec: RunSpec, last: Path, field: str
) -> None:
    rewrite(last, lambda content: content["extra"].pop(field))
    with pytest.raises(InputError, match=rf"last\.pt does not fit this run .*`{field}` is missing"):
        Trainer(spec)


@pytest.mark.parametrize("step", [-1, 10**9, 1.5, "2", True, None, [2]])
def test_checkpoint_with_an_impossible_step_is_refused(
    spec: RunSpec, last: Path, step: Any
) -> None:
    rewrite(last, lambda content: content["extra"].update(step=step))
    with pytest.raises(InputError, match=r"does not fit this run \(ValueError: .?step"):
        Trainer(spec)


@pytest.mark.parametrize("part", ["student", "teacher"])
def test_checkpoint_with_other_shapes_is_refused(spec: RunSpec, last: Path, part: str) -> None:
    def shrink(content: dict[str, Any]) -> None:
        name = next(n for n, value in content[part].items() if value.dim() == 4)
        content[part][name] = content[part][name][:1]

    rewrite(last, shrink)
    with pytest.raises(InputError, match=r"does not fit this run \(ValueError") as error:
        Trainer(spec)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("number", [torch.float64, torch.int64, torch.complex64])
def test_weights_of_another_type_are_refused_not_converted(
    spec: RunSpec, last: Path, number: torch.dtype
) -> None:
    def convert(content: dict[str, Any]) -> None:
        name = next(iter(content["student"]))
        content["student"][name] = content["student"][name].to(number)

    rewrite(last, convert)
    with pytest.raises(InputError, match=r"student\.\S+ is \('\w+', .*must be \('float32'"):
        Trainer(spec)


def test_moments_of_another_shape_are_refused(spec: RunSpec, last: Path) -> None:
    """torch takes them, and the next step ends in a traceback or broadcasts them."""

    def change(content: dict[str, Any]) -> None:
        content["optimizer"]["state"] = {0: {"momentum_buffer": torch.zeros(1)}}

    rewrite(last, change)
    with pytest.raises(InputError, match=r"optimizer\.state\.0\.momentum_buffer is"):
        Trainer(spec)


@pytest.mark.parametrize("field", ["seconds", "best", "last_val", "last_rung", "health"])
def test_plain_value_of_another_type_is_refused(spec: RunSpec, last: Path, field: str) -> None:
    rewrite(last, lambda content: content["extra"].update({field: [5]}))
    with pytest.raises(InputError, match=rf"does not fit this run .*`{field}"):
        Trainer(spec)
