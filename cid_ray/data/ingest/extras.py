"""Packages that only one format needs: extras of this package, imported when the format is read."""

from __future__ import annotations

import importlib
from typing import Any

from cid_ray.config import InputError


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an optional package.

    Raises:
        InputError: it is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"{package} is needed to read this format and cannot be imported ({error}); "
            f"install it by: pip install 'cid_ray[{extra}]'"
        ) from None
