"""Laws of faults during a run: unreadable pool images, losses of NaN or inf, damaged checkpoints.

The reference is the same run without the fault: substitutes are equal on any number of workers, a
skipped step changes no weight, and a fallback to an older checkpoint repeats the uninterrupted run
bit for bit.
"""

from __future__ import annotations

import io
import json
import math
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cid_ray.config import Config, InputError, build_config
from cid_ray.core.method import LossTerms
from cid_ray.data.cache import CachedReader
from cid_ray.data.loader import Batch, local_batches
from cid_ray.data.sampling import SamplingPlan
from cid_ray.data.splits import make_split
from cid_ray.data.table import Table
from cid_ray.data.table_format import ROW_GROUP_SIZE
from cid_ray.results.records import Record, of_event
from cid_ray.training import checkpoint
from cid_ray.training.loop import make_batches, train
from cid_ray.training.run_spec import RunSpec
from cid_ray.training.trainer import Trainer
from tests.helpers.tiny_run import ONE_CLASS, TINY


def decompression_bomb() -> bytes:
    """A PNG of 50 kB that would be 20,000 x 20,000 pixels."""
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


def damage(source: Path, target: Path, contents: dict[str, bytes | None]) -> Path:
    """A copy of a table in which some images hold other bytes, as if they were imported like that.

    A row without bytes keeps its hash: such a row cannot be imported.
    """
    table = pq.read_table(source / "table.parquet")
    ids = pq.read_table(source / "index.parquet")["image_id"].to_pylist()
    images = dict(zip(ids, table["image"].to_pylist(), strict=True)) | contents
    column = pa.array([images[image_id] for image_id in ids], pa.binary())
    target.mkdir(parents=True)
    index = pq.read_table(source / "index.parquet")
    known = dict(zip(ids, index["sha256"].to_pylist(), strict=True))
    known |= {
        key: sha256(value).hexdigest() for key, value in contents.items() if value is not None
    }
    hashes = pa.array([known[image_id] for image_id in ids])
    index = index.set_column(index.schema.get_field_index("sha256"), "sha256", hashes)
    pq.write_table(index, target / "index.parquet")
    meta = json.loads((source / "meta.json").read_text())
    meta["index_sha256"] = sha256((target / "index.parquet").read_bytes()).hexdigest()
    (target / "meta.json").write_text(json.dumps(meta))
    table = table.set_column(table.schema.get_field_index("image"), "image", column)
    pq.write_table(
        table, target / "table.parquet", row_group_size=ROW_GROUP_SIZE, compression="none"
    )
    return target


def make_config(table: Path, **changes: Any) -> Config:
    return build_config(TINY, {"data.table": str(table), "data.cache_mb": 0, **changes})


def make_spec(table: Path, folder: Path, **changes: Any) -> RunSpec:
    return RunSpec(make_config(table, **changes), folder, num_threads=1)


def ids_of(table: Path, part: str) -> list[str]:
    """The ids of the labeled images or of the pool."""
    opened = Table(table)
    split = make_split(opened, make_config(table).data)
    return opened.ids(getattr(split, part))


def run_to_end(spec: RunSpec) -> list[Record]:
    return [record for record in train(spec) if record["event"] != "progress"]


@pytest.fixture(scope="module")
def damaged_table(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the 42 pool images cannot be read, each for another reason."""
    bad = ids_of(small_demo, "pool")[3:7]
    row = Table(small_demo).index["image_id"].to_pylist().index(bad[0])
    image = pq.read_table(small_demo / "table.parquet")["image"][row].as_py()
    contents = {
        bad[0]: image[: len(image) // 2],
        bad[1]: b"",
        bad[2]: None,
        bad[3]: decompression_bomb(),
    }
    return damage(small_demo, tmp_path_factory.mktemp("damaged") / "table", contents)


# ---- unreadable images ----


def test_unreadable_pool_images_are_replaced_counted_and_named(
    damaged_table: Path, tmp_path: Path
) -> None:
    records = run_to_end(make_spec(damaged_table, tmp_path, **{"data.max_bad_frac": 0.1}))
    last_rung = of_event(records, "rung")[-1]
    bad = sorted(ids_of(damaged_table, "pool")[3:7])
    assert last_rung["unreadable"] == 4 and last_rung["unreadable_ids"] == bad
    warnings = records[-1]["warnings"]
    for image_id in bad:
        assert any(image_id in text and "cannot be read" in text for text in warnings)
    assert any("decompression bomb" in text for text in warnings)


def test_substitutes_on_two_workers_equal_those_of_one(damaged_table: Path) -> None:
    config = make_config(damaged_table)
    table = Table(damaged_table)
    plan = SamplingPlan.create(config.data, make_split(table, config.data), 0, True)
    reader = CachedReader(table, None, 0)
    single = list(local_batches(reader, plan, config.data, 0, 12))
    shards = [list(local_batches(reader, plan, config.data, 0, 12, rank, 2)) for rank in range(2)]
    for step, batch in enumerate(single):
        for key, value in batch.items():
            both = np.concatenate([shard[step][key] for shard in shards])
            assert np.array_equal(value, both), key
    texts = [text for batch in single for text in batch["unreadable_u"]]
    bad = {line.split(": ")[0] for text in texts for line in text.splitlines()}
    assert bad == set(ids_of(damaged_table, "pool")[3:7])


def test_more_unreadable_images_than_allowed_end_the_run(
    damaged_table: Path, tmp_path: Path
) -> None:
    rule = r"of 42 pool images cannot be read, more than data.max_bad_frac=0.05 .*skip-bad"
    with pytest.raises(InputError, match=rule):
        run_to_end(make_spec(damaged_table, tmp_path, **{"data.max_bad_frac": 0.05}))


def test_unreadable_labeled_image_ends_the_run(small_demo: Path, tmp_path: Path) -> None:
    image_id = ids_of(small_demo, "labeled")[0]
    table = damage(small_demo, tmp_path / "table", {image_id: b"no picture"})
    with pytest.raises(InputError, match=f"image {image_id} of .* cannot be read"):
        run_to_end(make_spec(table, tmp_path / "run"))


# ---- losses of NaN or inf ----


def with_nan_losses(trainer: Trainer, steps: set[int]) -> Trainer:
    """The trainer with a loss of NaN at some steps."""
    forward = trainer.method.forward

    def nan_forward(*args: Any, **options: Any) -> LossTerms:
        terms = forward(*args, **options)
        if trainer.step in steps:
            return replace(terms, total=terms.total * float("nan"))
        return terms

    trainer.method.forward = nan_forward  # type: ignore[method-assign]
    return trainer


def train_all(trainer: Trainer) -> None:
    for batch in make_batches(trainer):
        trainer.train_step(batch)


def test_nan_loss_is_reported_with_step_and_images(small_demo: Path, tmp_path: Path) -> None:
    trainer = with_nan_losses(Trainer(make_spec(small_demo, tmp_path)), {2})
    train_all(trainer)
    rule = r"at step 2 \(labeled images .*; pool images .*on_nan=skip"
    with pytest.raises(FloatingPointError, match=rule) as error:
        trainer.health.check_finite()
    assert str(error.value).count(",") >= trainer.config.images_per_step - 2


def test_infinite_gradient_is_found_before_the_checkpoint_is_replaced(
    small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite, on this worker at least. The weights are not, from this step on."""
    spec = make_spec(small_demo, tmp_path, **{"train.checkpoint_steps": 2})
    train_step = Trainer.train_step

    def infinite_step(trainer: Trainer, batch: Batch) -> LossTerms:
        weight = next(trainer.student.parameters())
        factor = math.inf if trainer.step == 3 else 1
        hook = weight.register_hook(lambda grad: grad * factor)
        terms = train_step(trainer, batch)
        hook.remove()
        return terms

    monkeypatch.setattr(Trainer, "train_step", infinite_step)
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 3"):
        list(train(spec))
    content = checkpoint.load_checkpoint(spec.last_checkpoint)
    assert content["extra"]["step"] == 2
    assert all(value.isfinite().all() for value in content["student"].values())


def test_nan_step_with_skip_changes_no_weight(small_demo: Path, tmp_path: Path) -> None:
    spec = make_spec(small_demo, tmp_path, **{"train.on_nan": "skip"})
    trainer = with_nan_losses(Trainer(spec), {4})
    for batch in make_batches(trainer):
        before = {name: value.clone() for name, value in trainer.student.state_dict().items()}
        is_skipped = trainer.step == 4
        trainer.train_step(batch)
        state = trainer.student.state_dict()
        is_equal = all(torch.equal(value, before[name]) for name, value in state.items())
        assert is_equal == is_skipped
    health = trainer.health
    assert health.state.skipped == [4] and "step 4 was skipped" in health.state.warnings[0]
    assert all(value.isfinite().all() for value in trainer.student.state_dict().values())
    health.check_finite()


def test_ten_nan_steps_in_a_row_with_skip_end_the_run(small_demo: Path, tmp_path: Path) -> None:
    changes = {"train.on_nan": "skip", "train.steps": 30}
    trainer = Trainer(make_spec(small_demo, tmp_path, **changes))
    with_nan_losses(trainer, set(range(5, 30)))
    with pytest.raises(FloatingPointError, match="10 steps in a row, up to step 14"):
        train_all(trainer)


# ---- checkpoints ----


def steps_of_previous(spec: RunSpec) -> list[int]:
    """The steps of the older checkpoints, newest first."""
    names = checkpoint.previous_checkpoints(spec.last_checkpoint)
    return [checkpoint.load_checkpoint(name)["extra"]["step"] for name in names]


def test_checkpoint_minutes_decide_how_many_checkpoints_are_written(
    small_demo: Path, tmp_path: Path
) -> None:
    changes = {"train.rungs": [1.0], "train.num_to_keep": 100}
    rarely = make_spec(
        small_demo, tmp_path / "rarely", **changes, **{"train.checkpoint_minutes": 60}
    )
    always = make_spec(
        small_demo, tmp_path / "always", **changes, **{"train.checkpoint_minutes": 1e-6}
    )
    run_to_end(rarely)
    run_to_end(always)
    assert steps_of_previous(rarely) == []
    assert steps_of_previous(always) == [*range(11, 0, -1)]


def test_kill_between_last_and_best_checkpoint_restores_the_best(
    small_demo: Path, tmp_path: Path
) -> None:
    """A partly written file is removed too."""
    spec = make_spec(small_demo, tmp_path)
    rungs = (record for record in train(spec) if record["event"] == "rung")
    next(rungs)
    rungs.close()
    expected = checkpoint.load_checkpoint(spec.best_checkpoint)
    checkpoint.save_checkpoint(spec.best_checkpoint, {}, spec.config, ONE_CLASS, step=1)
    partial = Path(spec.last_checkpoint).with_name("last.pt.77-0123abcd.partial")
    partial.write_bytes(b"half of it")
    assert Trainer(spec).best["step"] == 6
    restored = checkpoint.load_checkpoint(spec.best_checkpoint)
    assert restored["extra"]["step"] == 6 and not partial.exists()
    for name, value in expected["teacher"].items():
        assert torch.equal(value, restored["teacher"][name])


def test_damaged_checkpoint_falls_back_to_the_one_before(small_demo: Path, tmp_path: Path) -> None:
    """Bit for bit the uninterrupted run, from the last checkpoint that can be read."""
    changes = {"train.checkpoint_steps": 2, "train.num_to_keep": 3, "train.rungs": [1.0]}
    whole = make_spec(small_demo, tmp_path / "whole", **changes)
    run_to_end(whole)
    assert len(steps_of_previous(whole)) == 2
    cut = make_spec(small_demo, tmp_path / "cut", **changes)
    trainer = Trainer(cut)
    for batch in make_batches(trainer):
        trainer.train_step(batch)
        if trainer.step % 2 == 0:
            trainer.save()
        if trainer.step == 8:
            break
    last = Path(cut.last_checkpoint)
    last.write_bytes(last.read_bytes()[:1000])
    warning = run_to_end(make_spec(small_demo, tmp_path / "cut", **changes))[-1]["warnings"][0]
    assert "cannot be read" in warning and "resuming from the checkpoint before it" in warning
    one = checkpoint.load_checkpoint(whole.last_checkpoint)
    other = checkpoint.load_checkpoint(cut.last_checkpoint)
    for part in ("student", "teacher", "method"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}.{name}"
