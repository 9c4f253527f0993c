"""Opens what `data.table` names: a folder, a URI, or "demo" for the generated set.

This is a file of its own so that `table` need not know `synthetic`, which writes tables.
"""

from __future__ import annotations

from pathlib import Path

from cid_ray.data.table import Table
from cid_ray.storage import paths


def open_table(name: str) -> Table:
    """Open the table that `data.table` names.

    Args:
        name: a folder, `s3://bucket/path`, or "demo". The demo set is generated on first use, in
            seconds, in the user's cache folder.

    Returns:
        The table. Only its index is in memory, about half a kilobyte an image.

    Raises:
        InputError: there is no complete table.

    Example:
        >>> table = open_table("demo")
        >>> len(table.rows("train"))
        192
    """
    if name == "demo":
        # Generating needs the importers. A run on a real table does not load them.
        from cid_ray.data.synthetic import ensure_demo_table

        return Table(ensure_demo_table())
    return Table(name if paths.is_remote(name) else Path(name))
