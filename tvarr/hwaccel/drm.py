"""Graphics devices by the kernel's render nodes: /sys/class/drm/renderD*, and whether /dev/dri lets us use them."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path

from tvarr.hwaccel.model import GpuStats

SYS = Path("/sys")
DEV = Path("/dev")

_VENDORS = {0x10DE: "nvidia", 0x8086: "intel", 0x1002: "amd"}
_MAKERS = {"nvidia": "NVIDIA", "intel": "Intel", "amd": "AMD"}
_MAX_ATTRIBUTE_BYTES = 4096  # sysfs attributes are at most a page


@dataclass(frozen=True, slots=True)
class RenderNode:
    """One render node and the device behind it."""

    node: str  # "/dev/dri/renderD128"
    address: str  # PCI address "0000:00:02.0", or the platform device's name
    vendor: str  # nvidia, intel, amd, or the driver's name
    name: str  # for people
    driver: str  # the kernel's: i915, xe, amdgpu, nvidia
    problem: str = ""  # in words, why it can't be opened
    memory_bytes: int = 0
    sysfs: Path = SYS  # the device's folder


def render_nodes(sys_root: Path = SYS, dev_root: Path = DEV) -> tuple[RenderNode, ...]:
    """Lists the render nodes in the order of their numbers. Never raises."""
    try:
        folders = [path for path in (sys_root / "class" / "drm").iterdir() if path.name.startswith("renderD")]
    except OSError:
        return ()
    folders.sort(key=lambda path: (len(path.name), path.name))
    return tuple(_describe(folder, dev_root) for folder in folders)


def amdgpu_stats(gpu_id: str, sysfs: Path) -> GpuStats:
    """What an AMD GPU does now, from its folder in sysfs; the driver tells no encoder load and no sessions."""
    sensors = next(iter(sorted((sysfs / "hwmon").glob("hwmon*"))), sysfs)
    millicelsius = _number(sensors / "temp1_input")
    microwatts = _number(sensors / "power1_average")
    if microwatts is None:
        microwatts = _number(sensors / "power1_input")  # APUs and RDNA 3 have this one
    busy = _number(sysfs / "gpu_busy_percent")
    return GpuStats(
        id=gpu_id,
        utilization_percent=None if busy is None else float(busy),
        memory_used_bytes=_number(sysfs / "mem_info_vram_used"),
        memory_total_bytes=_number(sysfs / "mem_info_vram_total"),
        temperature_celsius=None if millicelsius is None else millicelsius / 1000,
        power_watts=None if microwatts is None else microwatts / 1_000_000,
    )


def problem_of(node: Path) -> str:
    """Opens a device node as an encoder would, and says in words why that fails; empty where it works."""
    try:
        os.close(os.open(node, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except FileNotFoundError:
        return f"{node} is missing: give it to the container with --device {node}"
    except PermissionError as error:
        return _forbidden(node, error)
    except OSError as error:
        return f"{node} can't be opened: {error.strerror or error}"
    return ""


def _forbidden(node: Path, error: PermissionError) -> str:
    status = node.stat()
    if error.errno == errno.EPERM:
        return f"{node} may not be opened: the container was not given the device"
    group = _group_name(status.st_gid)
    shown = f"group {group} ({status.st_gid})" if group else f"group {status.st_gid}"
    mode = status.st_mode & 0o777
    if mode & 0o060 != 0o060:
        return f"{node} may not be opened: its mode is {mode:03o}"
    return f"{node} may not be opened: it belongs to {shown}, and this user is not in it"


def _group_name(gid: int) -> str:
    try:
        import grp  # POSIX only
    except ImportError:
        return ""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return ""


def _describe(folder: Path, dev_root: Path) -> RenderNode:
    device = (folder / "device").resolve()
    driver = (device / "driver").resolve().name if (device / "driver").exists() else ""
    vendor_id = _number(device / "vendor", 16)
    vendor = _VENDORS.get(vendor_id or 0, driver or "unknown")
    node = dev_root / "dri" / folder.name
    return RenderNode(
        node=str(node),
        address=device.name,
        vendor=vendor,
        name=_name(device, vendor, driver),
        driver=driver,
        problem=problem_of(node),
        memory_bytes=_number(device / "mem_info_vram_total") or 0,
        sysfs=device,
    )


def _name(device: Path, vendor: str, driver: str) -> str:
    """The product's name where sysfs has it (amdgpu, for some cards), else the maker and the PCI device id."""
    if product := _text(device / "product_name"):
        return product
    maker = _MAKERS.get(vendor, vendor)
    device_id = _number(device / "device", 16)
    return f"{maker} GPU" if device_id is None else f"{maker} GPU {device_id:04x} ({driver or 'no driver'})"


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_ATTRIBUTE_BYTES).decode(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path, base: int = 10) -> int | None:
    try:
        return int(_text(path), base)
    except ValueError:
        return None
