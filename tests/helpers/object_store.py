"""A real S3 server on this machine: moto, over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from cid_ray.storage import paths
from tests.helpers.ports import free_port, reachable, wait_until

BUCKET = "s3://teams"


@contextmanager
def serving(port: int | None = None) -> Iterator[dict[str, str]]:
    """The environment that names the server. This process has it too until the block ends."""
    port = port or free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    env = {
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "hidden-word",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    before = {name: os.environ.get(name) for name in env}
    os.environ.update(env)
    paths._filesystem.cache_clear()
    try:
        wait_until(lambda: reachable(port), 60)
        boto3.client("s3").create_bucket(Bucket=BUCKET.removeprefix("s3://"))
        yield env
    finally:
        paths._filesystem.cache_clear()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        server.kill()
        server.wait()


def upload(folder: Path, name: str) -> str:
    """Copy a folder's files into the bucket; returns their URI."""
    uri = f"{BUCKET}/{name}"
    for file in folder.iterdir():
        with paths.atomic_write(f"{uri}/{file.name}") as out:
            out.write(file.read_bytes())
    return uri
