"""Builds the parts of /sys and /dev that tvarr.hwaccel.drm reads."""

from __future__ import annotations

from pathlib import Path


def add_render_node(root: Path, number: int, *, address: str, driver: str, ids: str = "", **attributes: str) -> Path:
    """Adds renderD`number` below `root` (folders sys and dev). `ids`: "vendor:device". Returns the device's folder."""
    device = root / "sys" / "devices" / "pci0000:00" / address
    device.mkdir(parents=True)
    drivers = root / "sys" / "bus" / "pci" / "drivers" / driver
    drivers.mkdir(parents=True, exist_ok=True)
    (device / "driver").symlink_to(drivers)
    if ids:
        vendor, product = ids.split(":")
        (device / "vendor").write_text(f"0x{vendor}\n")
        (device / "device").write_text(f"0x{product}\n")
    for name, value in attributes.items():
        (device / name).write_text(value + "\n")
    listed = root / "sys" / "bus" / "pci" / "devices"
    listed.mkdir(parents=True, exist_ok=True)
    (listed / address).symlink_to(device)
    node = root / "sys" / "class" / "drm" / f"renderD{number}"
    node.mkdir(parents=True)
    (node / "device").symlink_to(device)
    (root / "sys" / "class" / "drm" / f"card{number - 128}").mkdir()
    dev = root / "dev" / "dri"
    dev.mkdir(parents=True, exist_ok=True)
    (dev / f"renderD{number}").touch(mode=0o660)
    return device
