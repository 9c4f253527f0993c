"""What a network costs when it is used: parameters, operations and latency of one image."""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from cid_ray.config import Config
from cid_ray.core.model import Segmenter
from cid_ray.data.table import Table
from cid_ray.training.device import Device
from cid_ray.training.final_scores import median_ms


@torch.no_grad()
def network_costs(config: Config, table: Table) -> dict[str, float]:
    """Costs of a network on one image of the size of a training crop, on this machine.

    Args:
        config: names the network, the crop and the device.
        table: has the channels and classes.

    Returns:
        "parameters" in millions, "gflops" as torch's counter counts them (a multiplication with an
        addition is two), and "latency_ms", a median.
    """
    device = Device.choose(config.train)
    net = Segmenter(config.model, table.num_classes, table.band_stats).to(device.torch).eval()
    height, width = config.data.crop
    image = torch.zeros(1, table.num_channels, height, width, dtype=torch.uint8)
    image = image.to(device.torch)
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
