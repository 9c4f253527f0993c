"""Rules for single values, used by the schema and by code that takes the same values elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

# Names of secrets: of keys, of parameters in URLs, of words in connection strings.
SECRET_NAME = re.compile(
    r"(passw(or)?d|passphrase|pwd|secret|token|credentials?|apikey|accesskey|signature"
    r"|(^|[^a-z])(pass|pw|key|auth|sig))$",
    re.IGNORECASE,
)
# Matches start at a word's beginning only: else a long text takes quadratic time.
NAME_AND_VALUE = re.compile(r"(?<![\w.-])([\w.-]+)\s*=\s*(?=[^&;\s])")
USER_AND_PASSWORD = re.compile(r"(^|//|\s)[^/\s:@?#]*:[^/\s@?#]+@")
URL_WITH_USER = re.compile(r"://[^/\s]*@")  # a token can be the user
USER_ALLOWED = ("study.storage",)  # a database's user alone is no secret
MAX_UNQUOTES = 5  # a secret may be percent-encoded more than once


class SecretError(ValueError):
    """A rule broken by a value that may hold a secret: the message must not repeat the value."""


def holds_secret(name: str, value: Any) -> bool:
    """Whether a value is a secret by its name, or contains one.

    A secret is written into config.yaml, onto pages and into messages, so none may be given.

    Args:
        name: of the value, such as "search.callbacks.wandb.api_key".
        value: text is searched for passwords in URLs and for parameters with the name of a secret,
            percent-decoded. Numbers, truth values and None are no secrets.

    Example:
        >>> holds_secret("study.storage", "postgresql://me:pw@host/db")
        True
    """
    if isinstance(value, (list, tuple)):
        return any(holds_secret(name, item) for item in value)
    if not isinstance(value, str) or not value:
        return False
    text = value
    for _ in range(MAX_UNQUOTES if "%" in text else 0):
        text = unquote(text)
    names = [name.rpartition(".")[2], *NAME_AND_VALUE.findall(text)]
    if any(map(SECRET_NAME.search, names)) or USER_AND_PASSWORD.search(text):
        return True
    return name not in USER_ALLOWED and bool(URL_WITH_USER.search(text))


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested sections as dotted key -> value: {"loss": {"lr": 1}} gives {"loss.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def parse_label_ratio(ratio: Any) -> tuple[float | None, int | None]:
    """Read a label ratio: "1/8" or "0.2" gives (fraction, None), "23" gives (None, count)."""
    text = str(ratio).replace(" ", "")
    numerator, _, denominator = text.partition("/")
    try:
        number = float(numerator) / float(denominator or 1)
    except (ValueError, ZeroDivisionError):
        number = math.nan
    if math.isfinite(number):
        if not denominator and number > 1 and number == int(number):
            return None, int(number)
        if 0 < number <= 1:
            return number, None
    raise ValueError(
        f"label ratio {ratio!r} must be a fraction such as '1/8' "
        "or a count of at least 2 such as '23'"
    )


def parse_label_ratios(value: Any) -> tuple[str, ...]:
    """One label ratio or several, each as a text without spaces.

    Raises:
        ValueError: one of them is no label ratio.
    """
    given = value if isinstance(value, list | tuple) else (value,)
    ratios = tuple(str(ratio).replace(" ", "") for ratio in given)
    for ratio in ratios:
        parse_label_ratio(ratio)
    return ratios


def check_uri(name: str) -> str:
    """A folder, or `s3://bucket/path` without credentials: the name goes into every record."""
    if "://" in name and not re.fullmatch(r"s3://[^@?#/]+(/[^@?#]*)?", name):
        error_type = SecretError if "@" in name else ValueError
        raise error_type(
            "must be a folder or s3://bucket/path; credentials and endpoint are taken "
            "from the environment (AWS_ACCESS_KEY_ID, ..., AWS_ENDPOINT_URL)"
        )
    return name


def check_database_url(url: str) -> str:
    """A SQLAlchemy URL without a password: the URL is written into every record."""
    if not re.fullmatch(r"\w+(\+\w+)?://([^:@/]+@)?[^@]*", url) or "password" in url:
        raise SecretError(
            "must be a URL like postgresql+psycopg://host/database; user and password are taken "
            "from the environment (PGUSER, PGPASSWORD) or ~/.pgpass"
        )
    return url
