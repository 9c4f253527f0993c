"""Laws of files and folders: a local folder and an object store behave alike.

The store is a real S3 server (tests/helpers/object_store.py). The last tests run `train` with data
and checkpoints in it, against the same run on local folders.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from cid_ray.config import InputError, build_config
from cid_ray.data.table import Table
from cid_ray.results.records import read_records
from cid_ray.storage import paths
from cid_ray.storage.paths import PathOrUri
from cid_ray.train import main as train_main
from cid_ray.training import checkpoint
from tests.helpers.object_store import BUCKET, serving, upload
from tests.helpers.tiny_run import ONE_CLASS, TINY


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    with serving() as env:
        yield env


@pytest.fixture(
    params=["local", pytest.param("object store", marks=pytest.mark.process)],
)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> PathOrUri:
    if request.param == "local":
        return tmp_path / "folder"
    request.getfixturevalue("store")
    return f"{BUCKET}/{tmp_path.name}"


def put(name: PathOrUri, content: bytes) -> None:
    with paths.atomic_write(name) as file:
        file.write(content)


def get(name: PathOrUri) -> bytes:
    with paths.open_read(name) as file:
        return file.read()


def test_file_written_is_read_listed_and_removed(folder: PathOrUri) -> None:
    name = paths.join(folder, "a.pt")
    deeper = paths.join(folder, "deeper", "c.pt")
    assert paths.list_files(folder) == [] and not paths.exists(name)
    with pytest.raises(FileNotFoundError):
        paths.open_read(name)
    put(name, b"one")
    put(deeper, b"three")
    assert paths.exists(name) and get(name) == b"one"
    assert paths.list_files(folder, recursive=False) == ["a.pt"]
    assert paths.list_files(folder) == ["a.pt", "deeper/c.pt"]
    paths.remove(name)
    paths.remove(name)
    assert not paths.exists(name) and paths.exists(deeper)
    paths.remove(folder)
    assert not paths.exists(deeper)


def test_atomic_write_interrupted_keeps_previous_content(folder: PathOrUri) -> None:
    name = paths.join(folder, "a.pt")
    put(name, b"one")
    with contextlib.suppress(KeyboardInterrupt), paths.atomic_write(name) as file:
        file.write(b"tw")
        raise KeyboardInterrupt
    assert get(name) == b"one" and paths.list_files(folder, recursive=False) == ["a.pt"]


def test_link_or_copy_later_write_keeps_copy(folder: PathOrUri) -> None:
    name = paths.join(folder, "a.pt")
    other = paths.join(folder, "b.pt")
    put(name, b"one")
    paths.link_or_copy(name, other)
    put(name, b"two")
    assert get(other) == b"one" and get(name) == b"two"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("runs/mine", "mine"), ("s3://bucket/runs/mine/", "mine"), ("s3://bucket/mine", "mine")],
)
def test_basename_path_or_uri_is_last_component(name: str, expected: str) -> None:
    assert paths.basename(name) == expected


def test_basename_of_working_folder_is_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.basename(".") == tmp_path.name


def test_checkpoints_damaged_newest_falls_back_to_previous(folder: PathOrUri) -> None:
    name = paths.join(folder, "last.pt")
    config = build_config(TINY)
    for step in range(4):
        checkpoint.save_checkpoint(name, {}, config, ONE_CLASS, keep=3, step=step)
    kept = [
        checkpoint.load_checkpoint(older)["extra"]["step"]
        for older in checkpoint.previous_checkpoints(name)
    ]
    assert kept == [2, 1] and len(paths.list_files(folder)) == 3
    put(name, get(name)[:-40])
    content, messages = checkpoint.load_newest_checkpoint(name)
    assert content["extra"]["step"] == 2 and "cannot be read" in messages[0]


@pytest.mark.process
def test_table_in_object_store_equals_local_table(store: dict[str, str], small_demo: Path) -> None:
    local = Table(small_demo)
    remote = Table(upload(small_demo, "table"))
    assert remote.fingerprint == local.fingerprint and remote.index.equals(local.index)
    for row in (0, len(local) - 1):
        for mine, theirs in zip(local.read(row, True), remote.read(row, True), strict=True):
            assert np.array_equal(np.asarray(mine), np.asarray(theirs))


@pytest.mark.slow
@pytest.mark.process
def test_run_with_pool_and_checkpoints_in_object_store_equals_local_run(
    store: dict[str, str], small_demo: Path, tmp_path: Path
) -> None:
    local, remote = tmp_path / "local", tmp_path / "remote"
    changes = {**TINY, "train.num_to_keep": 2}
    common = [f"--set={key}={value}" for key, value in changes.items()]
    in_store = [
        f"--set=data.table={upload(small_demo, 'pool')}",
        f"--set=train.checkpoint_dir={BUCKET}/runs",
    ]
    on_disk = f"--set=data.table={small_demo}"
    assert train_main([*common, on_disk, "--out", str(local)]) == 0
    assert train_main([*common, *in_store, "--set=data.cache_mb=0", "--out", str(remote)]) == 0
    assert paths.list_files(f"{BUCKET}/runs/remote/train")[-1] == "last.pt"
    assert not (remote / "checkpoints").exists()
    expected = checkpoint.load_checkpoint(local / "checkpoints" / "train" / "last.pt")
    found = checkpoint.load_checkpoint(f"{BUCKET}/runs/remote/train/last.pt")
    assert all(
        torch.equal(value, found["teacher"][name]) for name, value in expected["teacher"].items()
    )
    # Another run folder of the same name would overwrite these checkpoints.
    (tmp_path / "again").mkdir()
    taken = r"s3://teams/runs/remote already holds checkpoints of another run"
    with pytest.raises(InputError, match=taken):
        train_main([*common, *in_store, "--out", str(tmp_path / "again" / "remote")])
    before = read_records(remote)[-1]
    assert train_main(["--resume", str(remote)]) == 0
    assert read_records(remote)[-1]["test/miou"] == before["test/miou"]
    for file in remote.rglob("*.*"):
        assert (
            not file.is_file() or store["AWS_SECRET_ACCESS_KEY"].encode() not in file.read_bytes()
        )


def test_resume_with_other_checkpoint_dir_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(build_config(TINY).to_yaml())
    other = f"train.checkpoint_dir={tmp_path / 'other'}"
    message = r"its checkpoints are stored in .*checkpoints; leave out train.checkpoint_dir"
    with pytest.raises(InputError, match=message):
        train_main(["--resume", str(tmp_path), "--set", other])


@pytest.mark.process
def test_unusable_store_is_reported_before_training(store: dict[str, str], tmp_path: Path) -> None:
    unwritable = r"dir s3://nobody/runs cannot be written .*AWS_ENDPOINT_URL"
    with pytest.raises(InputError, match=unwritable):
        train_main(["--set=train.checkpoint_dir=s3://nobody/runs", "--out", str(tmp_path / "run")])
    with pytest.raises(InputError, match=r"data.table 's3://teams/absent' is not a table"):
        train_main(["--set=data.table=s3://teams/absent", "--out", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "name", ["s3://key:word@bucket/a", "s3://bucket/a?region=x", "ftp://host/a", "s3:///a"]
)
@pytest.mark.parametrize("key", ["data.table", "train.checkpoint_dir"])
def test_uri_with_credentials_or_options_is_refused(key: str, name: str) -> None:
    rule = r"credentials and endpoint are taken from the environment|in the environment \(AWS_ACC"
    with pytest.raises(InputError, match=rule):
        build_config(TINY, {key: name})
