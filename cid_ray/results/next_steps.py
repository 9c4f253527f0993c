"""What to do with the result of a run: the commands that use its best network, filled in."""

from __future__ import annotations

import shlex

from cid_ray.results.summary import RatioSummary
from cid_ray.storage.paths import PathOrUri


def next_commands(run: PathOrUri, summaries: list[RatioSummary]) -> list[str]:
    """Commands for the best CID trial at the most labels; none before there is one.

    Args:
        run: the run folder, as the commands name it.
        summaries: as `summarize` returns them.

    Example:
        >>> next_commands("runs/demo", summaries)[0]
        'python -m cid_ray.evaluate runs/demo:1/8'
    """
    with_cid = [summary for summary in summaries if "cid" in summary.chosen]
    if not with_cid:
        return []
    summary = with_cid[-1]
    name = shlex.quote(f"{run}:{summary.ratio}")
    # The commands take the teacher unless told otherwise; the scores may be the student's.
    which = "" if summary.network == "teacher" else " --network student"
    return [
        f"python -m cid_ray.evaluate {name}{which}",
        f"python -m cid_ray.predict {name} PHOTOS --out predictions --overlay{which}",
        f"python -m cid_ray.pool {name}",
        f"python -m cid_ray.scale pool --config {name}",
        f"python -m cid_ray.label_next {name} --count 20 --out labels{which}",
        f"python -m cid_ray.export {name} --format onnx{which}",
    ]
