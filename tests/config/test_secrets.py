"""No secret is accepted in a configuration or a folder's name, and no message repeats one."""

from __future__ import annotations

import pytest

from cid_ray.config import InputError, build_config, holds_secret
from cid_ray.storage.run_dir import RunDir

SECRET = "hunter2"
FORMS = [
    ("study.storage", "postgresql+psycopg://me:{}@host/db"),
    ("study.storage", "postgresql+psycopg://:{}@host/db"),
    ("study.storage", "postgresql://me%3A{}@host/db"),
    ("study.storage", "postgresql://me%253A{}@host/db"),
    ("study.storage", "postgresql+psycopg://host/db?password={}"),
    ("study.storage", "postgresql+psycopg://host/db?PASSWORD={}"),
    ("study.storage", "postgresql+psycopg://host/db?user=me&passwd={}"),
    ("study.storage", "postgresql+psycopg://host/db?pass%77ord={}"),
    ("study.storage", "postgresql+psycopg://host/db?pwd={}&sslmode=require"),
    ("study.storage", "mysql://host/db?pass={}"),
    ("study.storage", "host=db user=me password={}"),
    ("study.storage", "host=db user=me passwd = {}"),
    ("study.storage", "host=db x=1password={}"),
    ("data.table", "s3://KEY:{}@bucket/table"),
    ("data.table", "s3://bucket/table?secret_key={}"),
    ("data.table", "s3://bucket/table?X-Amz-Signature={}"),
    ("train.checkpoint_dir", "s3://KEY:{}@bucket/runs"),
    ("train.checkpoint_dir", "s3://bucket/runs?access_key={}"),
    ("model.weights", "https://me:{}@host/weights.safetensors"),
    ("model.weights", "https://host/weights.safetensors?token={}"),
    ("model.weights", "https://host/w?sig={}"),
    ("model.weights", "https://host/w?auth={}"),
    ("model.decoder_options.token", "{}"),
    ("model.decoder_options.api_key", "{}"),
    ("search.sampler.args.apiKey", "{}"),
    ("search.sampler.args.access-key", "{}"),
    ("search.callbacks.wandb.api_key", "{}"),
    ("search.callbacks.mlflow.tracking_uri", "http://me:{}@host:5000"),
    ("search.callbacks.mlflow.tracking_uri", "http://host:5000?token={}"),
    ("search.callbacks.mlflow.tracking_token", "{}"),
    ("search.callbacks.mlflow.Password", "{}"),
    ("search.callbacks.wandb.settings.passphrase", "{}"),
    ("nonsense.secret", "{}"),
    ("search.callbacks.mlflow.tracking_uri", "https://{}@host"),
    ("model.weights", "git+ssh://{}@host/weights"),
]


@pytest.mark.parametrize(("key", "form"), FORMS)
def test_secret_is_refused_and_not_repeated(key: str, form: str) -> None:
    with pytest.raises(InputError, match="holds a password or another secret") as error:
        build_config({}, {key: form.format(SECRET)})
    message = str(error.value)
    assert f"`{key}`" in message and SECRET not in message and "\n" not in message


@pytest.mark.parametrize("form", ["s3://KEY:{}@bucket/run", "s3://bucket/run?secret_key={}"])
def test_secret_in_run_folder_is_refused_and_not_repeated(form: str) -> None:
    with pytest.raises(InputError, match="holds a password or key") as error:
        RunDir(form.format(SECRET))
    assert SECRET not in str(error.value)


def test_secret_in_a_change_that_is_no_yaml_is_not_repeated() -> None:
    with pytest.raises(InputError, match=r"--set study.storage: the value is not") as error:
        build_config({}, [f"study.storage=[{SECRET}"])
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "value",
    [
        "postgresql+psycopg://host/db",
        "postgresql+psycopg://me@host:5432/db",
        "postgresql+psycopg://host/db?sslmode=require&sslkey=/etc/client.pem",
        "postgresql+psycopg://host/db?passfile=/home/me/.pgpass",
        "s3://bucket/tokens/monkey",
        "tables/keys=value/x",
        "1/16",
        "C:/photos",
        "",
        None,
        7,
        True,
    ],
)
def test_value_without_a_secret_is_none(value: object) -> None:
    assert not holds_secret("study.storage", value)
    if "@" not in str(value):
        assert not holds_secret("optim.name", value)
