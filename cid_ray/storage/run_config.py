"""The configuration in a run folder: every run writes it first, and a resume reads it."""

from __future__ import annotations

from cid_ray.config import Config, InputError, error_summary, load_config, read_yaml
from cid_ray.storage import paths
from cid_ray.storage.run_dir import CONFIG_FILE, RunDir

CONFIG_SECTIONS = ("data", "model", "loss", "optim", "train", "search")  # every run writes them


def write_config(config: Config, run_dir: RunDir) -> None:
    """Create and lock the run folder, with the resolved configuration in it."""
    run_dir.lock()
    try:
        with paths.atomic_write(run_dir.local / CONFIG_FILE) as file:
            file.write(config.to_yaml().encode())
        run_dir.push()
    except OSError as error:
        reason = error.strerror or error_summary(error)
        raise InputError(f"--out {run_dir} cannot be written ({reason})") from None


def load_run_config(run_dir: RunDir) -> Config:
    """The configuration in a run folder that was pulled.

    Raises:
        InputError: there is none, or only a part of one.
    """
    path = run_dir.local / CONFIG_FILE
    if not path.is_file():
        raise InputError(f"{run_dir} is not a run folder: it has no {CONFIG_FILE}")
    missing = [section for section in CONFIG_SECTIONS if section not in read_yaml(path)]
    if missing:
        raise InputError(
            f"{run_dir}/{CONFIG_FILE} is damaged: it lacks {', '.join(missing)}; put the file back "
            "as it was"
        )
    return load_config(path)
