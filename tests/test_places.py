"""Files here and in an object store behave alike: whole or not there, listed, kept under a second name, removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cid_ray import places, train
from cid_ray.config import InputError, override
from cid_ray.data.table import Table
from cid_ray.places import Name
from cid_ray.results.record import read_rows
from cid_ray.run import state
from tests.object_store import BUCKET, serving, upload
from tests.support import TINY


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with serving() as env:
        yield env


@pytest.fixture(params=["here", "object store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Name:
    if request.param == "here":
        return tmp_path / "folder"
    request.getfixturevalue("store")
    return f"{BUCKET}/{tmp_path.name}"


def put(name: Name, content: bytes) -> None:
    with places.writing(name) as file:
        file.write(content)


def get(name: Name) -> bytes:
    with places.reading(name) as file:
        return file.read()


def test_a_file_is_written_read_listed_and_removed(folder: Name) -> None:
    name = places.join(folder, "a.pt")
    assert places.paths(folder) == [] and not places.exists(name)
    with pytest.raises(FileNotFoundError):
        places.reading(name)
    put(name, b"one")
    put(places.join(folder, "deeper", "c.pt"), b"three")
    assert places.exists(name) and get(name) == b"one" and places.paths(folder, below=False) == ["a.pt"]
    assert places.paths(folder) == ["a.pt", "deeper/c.pt"]
    places.remove(name)
    places.remove(name)
    assert not places.exists(name) and places.exists(places.join(folder, "deeper", "c.pt"))
    places.remove(folder)
    assert not places.exists(places.join(folder, "deeper", "c.pt"))


def test_a_file_that_is_not_finished_leaves_the_one_before(folder: Name) -> None:
    name = places.join(folder, "a.pt")
    put(name, b"one")
    with contextlib.suppress(KeyboardInterrupt), places.writing(name) as file:
        file.write(b"tw")
        raise KeyboardInterrupt
    assert get(name) == b"one" and places.paths(folder, below=False) == ["a.pt"]


def test_a_second_name_keeps_what_the_first_one_held(folder: Name) -> None:
    name, other = places.join(folder, "a.pt"), places.join(folder, "b.pt")
    put(name, b"one")
    places.second_name(name, other)
    put(name, b"two")
    assert get(other) == b"one" and get(name) == b"two"


def test_the_last_checkpoints_stay_and_a_damaged_one_falls_back(folder: Name) -> None:
    name, config = places.join(folder, "last.pt"), override(TINY, {})
    for step in range(4):
        state.save(name, {}, config, ["a"], keep=3, step=step)
    kept = [state.load(older)["extra"]["step"] for older in state.older_ones(name)]
    assert kept == [2, 1] and len(places.paths(folder)) == 3
    put(name, get(name)[:-40])
    content, told = state.load_newest(name)
    assert content["extra"]["step"] == 2 and "cannot be read" in told[0]


def test_a_table_in_an_object_store_is_the_table(store: dict[str, str], small_demo: Path) -> None:
    here, there = Table(small_demo), Table(upload(small_demo, "table"))
    assert there.fingerprint == here.fingerprint and there.index.equals(here.index)
    for row in (0, len(here) - 1):
        for mine, theirs in zip(here.read(row, True), there.read(row, True), strict=True):
            assert np.array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.mark.slow
def test_a_run_with_pool_and_checkpoints_in_an_object_store_ends_like_one_without(
    store: dict[str, str], small_demo: Path, tmp_path: Path
) -> None:
    settings = [f"--set={key}={value}" for key, value in {**TINY, "train.keep": 2}.items()]
    away = ["--set", f"data.table={upload(small_demo, 'pool')}", "--set", f"train.checkpoint_folder={BUCKET}/runs"]
    assert train.main([*settings, "--set", f"data.table={small_demo}", "--out", str(tmp_path / "here")]) == 0
    assert train.main([*settings, *away, "--set", "data.cache_mb=0", "--out", str(tmp_path / "away")]) == 0
    assert places.paths(f"{BUCKET}/runs/away/train")[-1] == "last.pt"
    assert not (tmp_path / "away" / "checkpoints").exists()
    one = state.load(tmp_path / "here" / "checkpoints" / "train" / "last.pt")
    other = state.load(f"{BUCKET}/runs/away/train/last.pt")
    assert all(torch.equal(value, other["teacher"][name]) for name, value in one["teacher"].items())
    (tmp_path / "again").mkdir()
    with pytest.raises(InputError, match=r"s3://teams/runs/away already holds checkpoints of another run"):
        train.main([*settings, *away, "--out", str(tmp_path / "again" / "away")])
    before = read_rows(tmp_path / "away")[-1]
    assert train.main(["--resume", str(tmp_path / "away")]) == 0
    assert read_rows(tmp_path / "away")[-1]["test/miou"] == before["test/miou"]
    for file in (tmp_path / "away").rglob("*.*"):
        assert not file.is_file() or store["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()


def test_a_resumed_run_looks_for_its_checkpoints_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(override(TINY, {}).to_yaml())
    with pytest.raises(InputError, match=r"its checkpoints lie in .*checkpoints; leave out train.checkpoint_folder"):
        train.main(["--resume", str(tmp_path), "--set", f"train.checkpoint_folder={tmp_path / 'other'}"])


def test_a_store_that_cannot_be_written_is_told_before_training(store: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"folder s3://nobody/runs cannot be written .*AWS_ENDPOINT_URL"):
        train.main(["--set", "train.checkpoint_folder=s3://nobody/runs", "--out", str(tmp_path / "run")])
    with pytest.raises(InputError, match=r"data.table 's3://teams/absent' is not a table"):
        train.main(["--set", "data.table=s3://teams/absent", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["s3://key:word@bucket/a", "s3://bucket/a?region=x", "ftp://host/a", "s3:///a"])
@pytest.mark.parametrize("key", ["data.table", "train.checkpoint_folder"])
def test_a_place_that_would_show_credentials_is_refused(key: str, name: str) -> None:
    with pytest.raises(InputError, match=r"credentials and endpoint are taken from the environment"):
        override(TINY, {key: name})
