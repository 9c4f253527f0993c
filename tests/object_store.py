"""A real S3 server on this machine (moto, over HTTP), for as long as tests need one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from cid_ray import places

BUCKET = "s3://teams"


@contextmanager
def serving(port: int | None = None) -> Iterator[dict[str, str]]:
    """The environment that names the server; set in this process too, as it was before afterwards."""
    port = port or free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env = {
        "AWS_ACCESS_KEY_ID": "someone", "AWS_SECRET_ACCESS_KEY": "hidden-word", "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    places._file_system.cache_clear()
    try:
        wait_for(port)
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        yield env
    finally:
        places._file_system.cache_clear()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.kill()
        server.wait()


def free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def wait_for(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.1)


def upload(folder: Path, name: str) -> str:
    """A folder's files in the bucket; their place."""
    place = f"{BUCKET}/{name}"
    for file in folder.iterdir():
        with places.writing(f"{place}/{file.name}") as out:
            out.write(file.read_bytes())
    return place
