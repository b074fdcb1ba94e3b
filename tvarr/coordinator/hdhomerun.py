"""The coordinator as media servers see it who know HDHomeRun tuners. Pure.

What the files hold is in Silicondust's HTTP development guide (info.hdhomerun.com/info/http_api); which of it clients
need was read in Jellyfin's `HdHomerunHost`, and in libhdhomerun what a device ID must be.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from tvarr.coordinator.models import Channel, Profile
from tvarr.coordinator.profiles import must_carry
from tvarr.errors import CannotCarry

MODEL = "HDHR4-2US"  # one that transcodes (HDTC-…) would be asked for with `?transcode=` behind our own query
FIRMWARE, FIRMWARE_VERSION = "hdhomerun4_atsc", "20190621"
FRIENDLY_NAME = "tvarr"

FIRST_NUMBER = 1000  # of channels that have none of their own
SECOND_NUMBER = 10_000_000  # of those whose first is another's own
_NUMBER = re.compile(r"\d{1,5}(\.\d{1,4})?", re.ASCII)  # "n" or "n.n"

_ID_FAMILY = 0x10F00000  # no model that has been sold, and none that libhdhomerun takes for one without HTTP
_ID_DIGITS = (0xA, 0x5, 0xF, 0x6, 0x7, 0xC, 0x1, 0xB, 0x9, 0x2, 0x8, 0xD, 0x4, 0x3, 0xE, 0x0)


def make_device_id(number: int) -> str:
    """The device ID for a number of 16 bits; its last digit is a checksum over the others."""
    value = _ID_FAMILY | (number & 0xFFFF) << 4
    return f"{value | _checksum(value):08X}"


def is_device_id(text: str) -> bool:
    """Whether clients take it for one."""
    return re.fullmatch(r"[0-9A-F]{8}", text) is not None and _checksum(int(text, 16)) == 0


def _checksum(value: int) -> int:
    """Of the eight digits, every second one is looked up first (`hdhomerun_discover_validate_device_id`)."""
    checksum = 0
    for shift in range(0, 32, 8):
        checksum ^= value >> shift & 15 ^ _ID_DIGITS[value >> shift + 4 & 15]
    return checksum


@dataclass(frozen=True, slots=True)
class Tuner:
    """The device. `base_url` is where its files are, `streams_url` where `/stream/…` is; neither ends with a slash."""

    device_id: str
    tuner_count: int
    base_url: str
    streams_url: str
    key: str = ""  # that streams must carry

    def discover(self) -> dict[str, object]:
        """`discover.json`."""
        return {
            "FriendlyName": FRIENDLY_NAME,
            "Manufacturer": "Silicondust",
            "ModelNumber": MODEL,
            "FirmwareName": FIRMWARE,
            "FirmwareVersion": FIRMWARE_VERSION,
            "DeviceID": self.device_id,
            "DeviceAuth": "tvarr",
            "TunerCount": self.tuner_count,
            "BaseURL": self.base_url,
            "LineupURL": f"{self.base_url}/lineup.json",
        }

    def lineup(self, channels: Iterable[tuple[int, Channel]], profiles: Mapping[str, Profile]) -> list[dict[str, str]]:
        """`lineup.json`: every channel as a transport stream; each comes with its number in the store."""
        numbered = numbers(channels)
        return [
            {"GuideNumber": number, "GuideName": channel.name, "URL": self._stream(channel, profiles)}
            for number, channel in sorted(numbered, key=lambda pair: [int(part) for part in pair[0].split(".")])
        ]

    def _stream(self, channel: Channel, profiles: Mapping[str, Profile]) -> str:
        query = {"key": self.key} if self.key else {}
        profile = profiles.get(channel.profile)
        try:
            if profile is not None:
                must_carry(profile, "ts")
        except CannotCarry:
            query["profile"] = "passthrough"
        return f"{self.streams_url}/stream/{channel.slug}.ts" + (f"?{urlencode(query)}" if query else "")

    def device_xml(self) -> str:
        """`device.xml`: the UPnP device description (UPnP Device Architecture 1.0, 2.1)."""
        return (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            '<root xmlns="urn:schemas-upnp-org:device-1-0">\n'
            "  <specVersion><major>1</major><minor>0</minor></specVersion>\n"
            f"  <URLBase>{escape(self.base_url)}</URLBase>\n"
            "  <device>\n"
            "    <deviceType>urn:schemas-upnp-org:device:MediaServer:1</deviceType>\n"
            f"    <friendlyName>{FRIENDLY_NAME}</friendlyName>\n"
            "    <manufacturer>Silicondust</manufacturer>\n"
            f"    <modelName>{MODEL}</modelName>\n"
            f"    <modelNumber>{MODEL}</modelNumber>\n"
            f"    <serialNumber>{self.device_id}</serialNumber>\n"
            f"    <UDN>uuid:00000000-0000-4000-8000-0000{self.device_id}</UDN>\n"
            "  </device>\n"
            "</root>\n"
        )


LINEUP_STATUS: dict[str, object] = {
    "ScanInProgress": 0,
    "ScanPossible": 1,
    "Source": "Cable",
    "SourceList": ["Cable"],
}
"""`lineup_status.json`: Plex asks for a scan (`lineup.post`) and waits here for its end."""


def numbers(channels: Iterable[tuple[int, Channel]]) -> list[tuple[str, Channel]]:
    """A guide number for each channel: its own, where that is a number and no earlier channel has it.

    The others get one by their number in the store, which stays when channels come and go: media servers know channels
    by it.
    """
    listed = list(channels)
    own: dict[str, int] = {}
    for index, (_, channel) in enumerate(listed):
        if _NUMBER.fullmatch(channel.tvg_chno):
            own.setdefault(_plain(channel.tvg_chno), index)
    found = {index: number for number, index in own.items()}
    for index, (row, _) in enumerate(listed):
        if index not in found:
            first = str(FIRST_NUMBER + row)
            found[index] = first if first not in own else str(SECOND_NUMBER + row)
    return [(found[index], channel) for index, (_, channel) in enumerate(listed)]


def _plain(number: str) -> str:
    """Without zeros in front, which clients take away."""
    return ".".join(str(int(part)) for part in number.split("."))
