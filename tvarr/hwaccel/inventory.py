"""The graphics devices of this host: what NVML and the render nodes say, put together."""

from __future__ import annotations

import logging
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from tvarr.cluster.model import Gpu
from tvarr.hwaccel import drm
from tvarr.hwaccel.drm import RenderNode, render_nodes
from tvarr.hwaccel.nvidia_models import Licence, classify_gpu
from tvarr.hwaccel.nvml import NvidiaGpu, Nvml

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Inventory:
    """All devices that may encode. Ids are NVIDIA's UUIDs and the PCI addresses of all others."""

    gpus: tuple[Gpu, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)  # by `Gpu.id`: why its render node can't be opened
    sysfs: dict[str, Path] = field(default_factory=dict)  # by `Gpu.id`: its folder in sysfs
    nvidia_driver: str = ""
    nvidia_reason: str = ""  # in words, why NVML lists none or not all
    v4l2: tuple[str, ...] = ()  # /dev/video nodes
    mpp: bool = False  # Rockchip's encoder
    platform: str = sys.platform


def take_inventory(*, sys_root: Path = drm.SYS, dev_root: Path = drm.DEV) -> Inventory:
    """Looks at the host. Never raises; may block for some 100 ms while a sleeping NVIDIA driver wakes up."""
    nodes = render_nodes(sys_root, dev_root)
    nvidia = Nvml().gpus()
    by_address = {node.address: node for node in nodes}
    gpus = [_nvidia(gpu, nvidia.driver, by_address.pop(gpu.pci_address, None)) for gpu in nvidia.gpus]
    others = list(by_address.values())
    gpus += [
        Gpu(
            id=node.address,
            name=node.name,
            vendor=node.vendor,
            driver=node.driver,
            memory_bytes=node.memory_bytes,
            node=node.node,
            engines=0 if node.vendor == "nvidia" else 1,
        )
        for node in others
    ]
    return Inventory(
        gpus=tuple(gpus),
        problems={node.address: node.problem for node in others if node.problem},
        sysfs={node.address: node.sysfs for node in others},
        nvidia_driver=nvidia.driver,
        nvidia_reason=nvidia.reason,
        v4l2=tuple(str(path) for path in sorted(dev_root.glob("video[0-9]*"))),
        mpp=(dev_root / "mpp_service").exists(),
    )


def _nvidia(gpu: NvidiaGpu, driver: str, node: RenderNode | None) -> Gpu:
    model = classify_gpu(gpu.name)
    if not model.known:
        log.warning("unknown NVIDIA model %r: counted against the host's session limit", gpu.name)
    plain = Gpu(
        id=gpu.uuid,
        name=gpu.name,
        vendor="nvidia",
        index=gpu.index,
        driver=driver,
        memory_bytes=gpu.memory_bytes,
        architecture=gpu.architecture,
        engines=model.engines,
        restricted=model.licence is Licence.RESTRICTED,
    )
    return plain if node is None else replace(plain, node=node.node)
