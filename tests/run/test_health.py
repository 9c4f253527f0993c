"""What goes wrong in the middle: unreadable pool images, losses that are no number, checkpoints that are damaged."""

from __future__ import annotations

import io
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from cid_ray.config import Config, InputError, override
from cid_ray.core.method import LossTerms
from cid_ray.data.batches import Batch, Plan, local_batches
from cid_ray.data.cache import Reader
from cid_ray.data.splits import make_split
from cid_ray.data.table import GROUP_ROWS, Table
from cid_ray.results.record import Row
from cid_ray.run import state
from cid_ray.run.loop import feed, train
from cid_ray.run.run import Job, Run
from tests.support import TINY


def bomb() -> bytes:
    """A PNG of 50 kB that would be 20,000 x 20,000 pixels."""
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


def damaged(source: Path, target: Path, contents: dict[str, bytes | None]) -> Path:
    """A copy of a table in which some images hold other bytes."""
    table = pq.read_table(source / "table.parquet")
    found = dict(zip(table["image_id"].to_pylist(), table["image"].to_pylist(), strict=True)) | contents
    column = pa.array([found[name] for name in table["image_id"].to_pylist()], pa.binary())
    target.mkdir(parents=True)
    for name in ("meta.json", "index.parquet"):
        shutil.copy(source / name, target)
    table = table.set_column(table.schema.get_field_index("image"), "image", column)
    pq.write_table(table, target / "table.parquet", row_group_size=GROUP_ROWS, compression="none")
    return target


def config_of(table: Path, **changes: Any) -> Config:
    return override(TINY, {"data.table": str(table), "data.cache_mb": 0, **changes})


def names(table: Path, kind: str) -> list[str]:
    opened = Table(table)
    split = make_split(opened, config_of(table).data)
    return opened.ids(getattr(split, kind))


def run_through(job: Job) -> list[Row]:
    return [row for row in train(job) if row["event"] != "progress"]


@pytest.fixture(scope="module")
def broken(small_demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four of the 42 pool images cannot be read, each for another reason."""
    bad = names(small_demo, "pool")[3:7]
    whole = pq.read_table(small_demo / "table.parquet", filters=[("image_id", "=", bad[0])])["image"][0].as_py()
    contents = {bad[0]: whole[: len(whole) // 2], bad[1]: b"", bad[2]: None, bad[3]: bomb()}
    return damaged(small_demo, tmp_path_factory.mktemp("broken") / "table", contents)


def test_unreadable_pool_images_are_passed_over_counted_and_named(broken: Path, tmp_path: Path) -> None:
    rows = run_through(Job(config_of(broken, **{"data.max_bad_frac": 0.1}), tmp_path, threads=1))
    last = [row for row in rows if row["event"] == "rung"][-1]
    bad = sorted(names(broken, "pool")[3:7])
    assert last["unreadable"] == 4 and last["unreadable_ids"] == bad
    told = rows[-1]["warnings"]
    assert [any(name in text and "cannot be read" in text for text in told) for name in bad] == [True] * 4
    assert any("decompression bomb" in text for text in told)


def test_stand_ins_are_the_same_on_any_number_of_workers(broken: Path) -> None:
    config = config_of(broken)
    table = Table(broken)
    plan, reader = Plan.of(config.data, make_split(table, config.data), 0, True), Reader(table, None, 0)
    alone = list(local_batches(reader, plan, config.data, 0, 12))
    shares = [list(local_batches(reader, plan, config.data, 0, 12, rank, 2)) for rank in range(2)]
    for step, batch in enumerate(alone):
        for key, value in batch.items():
            assert np.array_equal(value, np.concatenate([share[step][key] for share in shares])), key
    bad = {line.split(": ")[0] for batch in alone for text in batch["unreadable_u"] for line in text.splitlines()}
    assert bad == set(names(broken, "pool")[3:7])


def test_more_than_the_allowance_ends_the_run_and_names_them(broken: Path, tmp_path: Path) -> None:
    rule = r"of 42 pool images cannot be read, more than data.max_bad_frac=0.05 .*skip-bad"
    with pytest.raises(InputError, match=rule):
        run_through(Job(config_of(broken, **{"data.max_bad_frac": 0.05}), tmp_path, threads=1))


def test_an_unreadable_labeled_image_ends_the_run(small_demo: Path, tmp_path: Path) -> None:
    name = names(small_demo, "labeled")[0]
    table = damaged(small_demo, tmp_path / "table", {name: b"no picture"})
    with pytest.raises(InputError, match=f"image {name} of .* cannot be read"):
        run_through(Job(config_of(table), tmp_path / "run", threads=1))


def poisoned(run: Run, steps: set[int]) -> Run:
    """The loss of some steps is no number."""
    method = run.method.forward

    def forward(*args: Any, **options: Any) -> LossTerms:
        terms = method(*args, **options)
        return replace(terms, total=terms.total * float("nan")) if run.step in steps else terms

    run.method.forward = forward  # type: ignore[method-assign]
    return run


def test_a_loss_that_is_no_number_ends_the_run_with_step_and_images(small_demo: Path, tmp_path: Path) -> None:
    run = poisoned(Run(Job(config_of(small_demo), tmp_path, threads=1)), {2})
    for batch in feed(run):
        run.train_step(batch)
    with pytest.raises(FloatingPointError, match=r"at step 2 \(labeled images .*; pool images .*on_nan=skip") as error:
        run.health.check_finite()
    assert str(error.value).count(",") >= run.images_per_step - 2


def test_a_gradient_that_is_no_number_is_found_before_a_checkpoint_is_replaced(
    small_demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss is finite, in this worker at least; the weights are not, from this step on."""
    config = config_of(small_demo, **{"train.checkpoint_steps": 2})
    job = Job(config, tmp_path, threads=1)
    step = Run.train_step

    def spoiled(run: Run, batch: Batch) -> LossTerms:
        hook = next(run.student.parameters()).register_hook(lambda grad: grad * (math.inf if run.step == 3 else 1))
        terms = step(run, batch)
        hook.remove()
        return terms

    monkeypatch.setattr(Run, "train_step", spoiled)
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 3"):
        list(train(job))
    kept = state.load(job.last)
    assert kept["extra"]["step"] == 2
    assert all(value.isfinite().all() for value in kept["student"].values())


def test_checkpoints_are_written_every_so_many_minutes(small_demo: Path, tmp_path: Path) -> None:
    settings = {"train.rungs": [1.0], "train.keep": 100}
    never = Job(config_of(small_demo, **settings, **{"train.checkpoint_minutes": 60}), tmp_path / "never", threads=1)
    always = Job(
        config_of(small_demo, **settings, **{"train.checkpoint_minutes": 1e-6}), tmp_path / "always", threads=1
    )
    run_through(never)
    run_through(always)
    assert not state.older_ones(never.last)
    assert [state.load(old)["extra"]["step"] for old in state.older_ones(always.last)] == [*range(11, 0, -1)]


def test_a_kill_between_the_last_and_the_best_checkpoint_loses_neither(small_demo: Path, tmp_path: Path) -> None:
    """And what it had begun to write is removed."""
    job = Job(config_of(small_demo), tmp_path, threads=1)
    rungs = (row for row in train(job) if row["event"] == "rung")
    next(rungs)
    rungs.close()
    right = state.load(job.best)
    state.save(job.best, {}, job.config, ["of another step"], step=1)
    (begun := job.last.with_name("last.pt.77-0123abcd.partial")).write_bytes(b"half of it")
    assert Run(job).best["step"] == 6
    again = state.load(job.best)
    assert again["extra"]["step"] == 6 and not begun.exists()
    assert all(torch.equal(value, again["teacher"][name]) for name, value in right["teacher"].items())


def test_such_a_step_can_be_left_out_as_if_it_had_not_been(small_demo: Path, tmp_path: Path) -> None:
    run = poisoned(Run(Job(config_of(small_demo, **{"train.on_nan": "skip"}), tmp_path, threads=1)), {4})
    for batch in feed(run):
        before = {name: value.clone() for name, value in run.student.state_dict().items()}
        left_out = run.step == 4
        run.train_step(batch)
        same = all(torch.equal(value, before[name]) for name, value in run.student.state_dict().items())
        assert same == left_out
    assert run.health.found.skipped == [4] and "step 4 was left out" in run.health.found.warnings[0]
    assert all(value.isfinite().all() for value in run.student.state_dict().values())
    run.health.check_finite()


def test_too_many_such_steps_in_a_row_end_the_run(small_demo: Path, tmp_path: Path) -> None:
    changes = {"train.on_nan": "skip", "train.steps": 30}
    run = poisoned(Run(Job(config_of(small_demo, **changes), tmp_path, threads=1)), set(range(5, 30)))
    batches = feed(run)
    with pytest.raises(FloatingPointError, match="10 steps in a row, up to step 14"):
        any(run.train_step(batch) is None for batch in batches)


def test_checkpoints_between_rungs_are_kept_and_a_damaged_one_falls_back(small_demo: Path, tmp_path: Path) -> None:
    """Bit for bit the run that was never interrupted, from the last checkpoint that can be read."""
    changes = {"train.checkpoint_steps": 2, "train.keep": 3, "train.rungs": [1.0]}
    config = config_of(small_demo, **changes)
    whole = Job(config, tmp_path / "whole", threads=1)
    run_through(whole)
    assert len(state.older_ones(whole.last)) == 2
    cut = Job(config, tmp_path / "cut", threads=1)
    run = Run(cut)
    for batch in feed(run):
        run.train_step(batch)
        if run.step % 2 == 0:
            run.save()
        if run.step == 8:
            break
    cut.last.write_bytes(cut.last.read_bytes()[:1000])
    rows = run_through(Job(config, tmp_path / "cut", threads=1))
    assert "cannot be read" in rows[-1]["warnings"][0] and "going on from the one before" in rows[-1]["warnings"][0]
    one, other = state.load(whole.last), state.load(cut.last)
    for part in ("student", "teacher", "method"):
        for name, value in one[part].items():
            assert torch.equal(value, other[part][name]), f"{part}.{name}"
