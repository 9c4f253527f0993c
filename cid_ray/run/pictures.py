"""Pictures of what a run predicts: of a few val images anew at every rung, of a few held-out ones at its end.

An image and its label are written once for all runs of a command; a newer prediction replaces the former one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from cid_ray import places
from cid_ray.core import evaluate
from cid_ray.data.table import png
from cid_ray.run.run import Run


def keep_pictures(run: Run, split: str) -> list[dict[str, Any]]:
    """The teacher's predictions on `train.samples` evenly spaced images of val or test, as indexed PNG files.

    For each image its id and the paths of image, label and prediction below the command's folder. Only the first of
    several workers writes; nothing of the run is changed by it.
    """
    rows = run.held_out_rows(split)
    count = min(run.config.train.samples, len(rows))
    if not count or run.job.rank:
        return []
    rows = rows[np.linspace(0, len(rows) - 1, count + 2).round().astype(int)[1:-1]]
    palette = [*run.table.colors, *[[0, 0, 0]] * (256 - run.table.num_classes)]
    net, found = run.teacher.module.eval(), []
    for row, (image, mask) in zip(rows.tolist(), run.held_out(rows), strict=True):
        with torch.no_grad(), run.device.autocast():
            guess = evaluate.predict(net, image[None], (mask.shape[0], mask.shape[1]), run.config.train.window)
        paths = {
            "image": f"samples/images/{row}_image.png",
            "label": f"samples/images/{row}_label.png",
            "prediction": f"samples/{run.job.name}/{row}.png",
        }
        for name, path in paths.items():
            if name == "prediction":
                _write(run, path, png(guess[0].to(torch.uint8).cpu().numpy(), palette))
            elif not places.exists(places.join(run.job.root, path)):
                colored = name == "label"
                pixels = mask if colored else image.permute(1, 2, 0)
                _write(run, path, png(pixels.cpu().numpy(), palette if colored else None))
        found.append({"image_id": run.table.ids(np.array([row]))[0], **paths})
    return found


def _write(run: Run, path: str, content: bytes) -> None:
    with places.writing(places.join(run.job.root, path)) as file:
        file.write(content)
