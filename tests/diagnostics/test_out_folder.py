"""`--out`: a folder or store in which a run cannot be written is named, and nothing is left."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from cid_ray.config import InputError
from cid_ray.diagnostics.out_folder import check_endpoint, check_out
from cid_ray.diagnostics.runner import Limited
from cid_ray.storage import lock
from tests.helpers import object_store
from tests.helpers.ports import free_port


def test_new_folder_is_ok_and_is_not_made(tmp_path: Path) -> None:
    try:
        text = check_out(str(tmp_path / "a" / "b"))
    except Limited as error:
        pytest.skip(f"the disk of this machine is nearly full: {error}")
    assert text.startswith(f"{tmp_path}/a/b, files and locks work, ") and text.endswith(" free")
    assert list(tmp_path.iterdir()) == []


def test_file_in_place_of_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file is a file; choose --out in a folder"):
        check_out(str(tmp_path / "file" / "run"))


def test_folder_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(InputError, match=r"/proc cannot be written \(.*\); choose another --out"):
        check_out("/proc/run")


def test_small_disk_is_a_warning_and_a_full_one_is_refused(small_disk: Path) -> None:
    with pytest.raises(Limited, match=r"has only 0.0 GiB free .*remove old runs"):
        check_out(str(small_disk))
    free = shutil.disk_usage(small_disk).free
    (small_disk / "big").write_bytes(bytes(free - 4096 * 4))  # a folder and a lock still fit
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        check_out(str(small_disk))
    assert [path.name for path in small_disk.iterdir()] == ["big"]


def test_locks_without_effect_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system that accepts locks and keeps them on each machine alone."""
    monkeypatch.setattr(lock.fcntl, "flock", lambda file, kind: None)
    with pytest.raises(InputError, match=r"locks in .* have no effect"):
        check_out(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_file_system_without_locks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(file: object, kind: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(InputError, match="its file system has no locks"):
        check_out(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def store() -> Iterator[None]:
    with object_store.serving():
        yield


@pytest.mark.process
def test_bucket_is_ok_and_no_file_is_left_in_it(store: None) -> None:
    text = check_out(f"{object_store.BUCKET}/runs/mine")
    assert text.startswith(f"{object_store.BUCKET}/runs/mine at http://127.0.0.1:")
    bucket = object_store.BUCKET.removeprefix("s3://")
    left = boto3.client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    assert [(item["Key"], item["Size"]) for item in left] == [("runs/mine/", 0)], (
        "pyarrow's name of the folder"
    )


@pytest.mark.process
def test_bucket_that_does_not_exist_is_refused(store: None) -> None:
    with pytest.raises(InputError, match=r"s3://nowhere/.* cannot be written .*check the bucket"):
        check_out("s3://nowhere/runs")


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1", "ftp://127.0.0.1", "http://host:port"])
def test_endpoint_that_is_no_address_is_refused(endpoint: str) -> None:
    with pytest.raises(InputError, match="must be http://host:port or https://host"):
        check_endpoint(endpoint)


def test_endpoint_where_nothing_answers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://me:hidden-word@127.0.0.1:{port}/x")
    with pytest.raises(
        InputError, match=rf"nothing answers at http://127.0.0.1:{port} \("
    ) as caught:
        check_out("s3://teams/runs")
    assert "hidden-word" not in str(caught.value)


def test_secret_in_the_name_is_refused() -> None:
    with pytest.raises(InputError, match="holds a password or key") as caught:
        check_out("s3://KEY:hidden-word@bucket/runs")
    assert "hidden-word" not in str(caught.value)
