"""What a network costs when it is used: parameters, operations and latency of one image."""

from __future__ import annotations

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from cid_ray.config import Config
from cid_ray.core.model import Segmenter
from cid_ray.data.cache import CachedReader
from cid_ray.data.table import Table
from cid_ray.training.device import Device
from cid_ray.training.final_scores import median_ms


@torch.no_grad()
def network_costs(config: Config, table: Table) -> dict[str, float]:
    """Costs of a network on the first train image, on this machine.

    Args:
        config: names the network, the size of images and the device.
        table: the data set.

    Returns:
        "parameters" in millions, "gflops" as torch's counter counts them (a multiplication with an
        addition is two), and "latency_ms", a median.
    """
    device = Device.choose(config.train)
    net = Segmenter(config.model, table.num_classes, table.band_stats).to(device.torch).eval()
    reader = CachedReader(table, config.data.image_size, cache_mb=0)
    pixels, _ = reader(int(table.rows("train")[0]), mask=False)
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].to(device.torch)
    with FlopCounterMode(display=False) as counter:
        net(image)

    def forward() -> None:
        with device.autocast():
            net(image)

    return {
        "parameters": sum(weight.numel() for weight in net.parameters()) / 1e6,
        "gflops": counter.get_total_flops() / 1e9,
        "latency_ms": median_ms(forward, device.torch),
    }
