"""The tuner that media servers see: the files, and what clients need of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.coordinator.web_server import Served, ask, serving
from tvarr.coordinator.hdhomerun import is_device_id, make_device_id, numbers
from tvarr.coordinator.models import Channel, ChannelCreate, parse
from tvarr.coordinator.store import Store

UPNP = "{urn:schemas-upnp-org:device-1-0}"
HOST = {"Host": "tv.example.org:8080"}


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """As media servers ask: without a password."""
    async with serving(tmp_path, logged_in=False) as (client, services):
        for number in range(3):
            await services.store.add_channel(channel(f"C{number}"))
        yield client, services


def channel(name: str, **more: object) -> ChannelCreate:
    return parse(ChannelCreate, {"name": name, "url": f"http://h/{name}.ts", **more})


def test_device_ids_have_the_checksum_that_clients_look_for() -> None:
    assert is_device_id("10439EFD")  # of a real HDHR4-2US
    for other in ("12345678", "10439EFE", "10439efd", "1043", "", "tvarr"):
        assert not is_device_id(other)
    made = [make_device_id(number) for number in (0, 1, 0x1234, 0xFFFF)]
    assert all(is_device_id(text) for text in made)
    assert len(set(made)) == len(made)


async def test_discover_json_has_what_clients_read(served: Served) -> None:
    """Jellyfin's `DiscoverResponse` and Plex: names as they are, absolute addresses, a whole number of tuners."""
    client, services = served
    found = await ask(client, "GET", "/discover.json", 200, headers=HOST)
    texts = {"FriendlyName", "ModelNumber", "FirmwareName", "FirmwareVersion", "DeviceID", "DeviceAuth"}
    assert all(isinstance(found[name], str) and found[name] for name in texts)
    assert found["DeviceID"] == services.device_id
    assert found["TunerCount"] == 3
    assert found["BaseURL"] == "http://tv.example.org:8080"
    assert found["LineupURL"] == "http://tv.example.org:8080/lineup.json"
    assert "HDTC" not in found["ModelNumber"], "it would be asked to transcode, by a second query behind ours"
    proxied = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "tv.example.org"}
    assert (await ask(client, "GET", "/discover.json", 200, headers=proxied))["BaseURL"] == "https://tv.example.org"
    await ask(client, "GET", "/discover.json", 400, headers={"X-Forwarded-Host": 'x"><b>'})


async def test_the_lineup(served: Served) -> None:
    client, services = served
    await services.store.change_channel("c1", {"tvg_chno": "7.2"})
    await services.store.change_channel("c2", {"tvg_chno": "7", "profile": "av1", "name": "Télé <1>"})
    assert await ask(client, "GET", "/lineup.json", 200, headers=HOST) == [
        {
            "GuideNumber": "7",
            "GuideName": "Télé <1>",
            "URL": "http://tv.example.org:8080/stream/c2.ts?profile=passthrough",  # its own is for no transport stream
        },
        {"GuideNumber": "7.2", "GuideName": "C1", "URL": "http://tv.example.org:8080/stream/c1.ts"},
        {"GuideNumber": "1001", "GuideName": "C0", "URL": "http://tv.example.org:8080/stream/c0.ts"},
    ]
    for made in range(3):
        await services.store.remove_channel(f"c{made}")
    assert await ask(client, "GET", "/lineup.json", 200) == []


async def test_a_scan_has_always_ended(served: Served) -> None:
    client, _ = served
    for query in ("?scan=start&source=Cable", "?scan=abort", ""):
        assert await ask(client, "POST", f"/lineup.post{query}", 200) is None
    status = await ask(client, "GET", "/lineup_status.json", 200)
    assert (status["ScanInProgress"], status["ScanPossible"]) == (0, 1)
    assert status["Source"] in status["SourceList"]


async def test_device_xml_is_a_upnp_description(served: Served) -> None:
    client, services = served
    async with client.get("/device.xml", headers=HOST) as answer:
        assert answer.content_type == "application/xml"
        root = ElementTree.fromstring(await answer.text())
    assert root.tag == f"{UPNP}root"
    assert root.findtext(f"{UPNP}URLBase") == "http://tv.example.org:8080"
    device = root.find(f"{UPNP}device")
    assert device is not None
    for name in ("deviceType", "friendlyName", "manufacturer", "modelName", "modelNumber", "UDN"):
        assert device.findtext(f"{UPNP}{name}")
    assert device.findtext(f"{UPNP}serialNumber") == services.device_id
    udn = device.findtext(f"{UPNP}UDN") or ""
    assert udn.startswith("uuid:")
    assert udn.endswith(services.device_id)


async def test_with_a_stream_key_all_of_it_is_behind_the_key(served: Served) -> None:
    client, services = served
    await ask(client, "GET", "/hdhr/any/discover.json", 404)
    services.stream_key = "k/ä"
    base = "http://tv.example.org:8080/hdhr/k%2F%C3%A4"
    for path in ("discover.json", "lineup.json", "lineup_status.json", "device.xml"):
        for wrong in (f"/{path}", f"/{path}?key=other", f"/hdhr/other/{path}", f"/hdhr/other/{path}?key=k%2F%C3%A4"):
            await ask(client, "GET", wrong, 401)
    await ask(client, "POST", "/lineup.post?scan=start", 401)
    await ask(client, "POST", "/hdhr/k%2F%C3%A4/lineup.post?scan=start", 200)
    right = ("/discover.json?key=k%2F%C3%A4", "/hdhr/k%2F%C3%A4/discover.json")
    found: list[Any] = [await ask(client, "GET", path, 200, headers=HOST) for path in right]
    assert found[0] == found[1]
    assert (found[0]["BaseURL"], found[0]["LineupURL"]) == (base, f"{base}/lineup.json")
    path = found[0]["LineupURL"].removeprefix("http://tv.example.org:8080")
    lineup = await ask(client, "GET", path, 200, headers=HOST)
    assert lineup[0]["URL"] == "http://tv.example.org:8080/stream/c0.ts?key=k%2F%C3%A4"


async def test_the_folder_behind_the_key_leads_to_the_device(served: Served) -> None:
    """People look at the address that they are to enter; what is wrong with it is not always the key."""
    client, services = served
    await ask(client, "GET", "/hdhr/any", 404)
    services.stream_key = "k/ä"
    for path in ("/hdhr/k%2F%C3%A4", "/hdhr/k%2F%C3%A4/"):
        found = await ask(client, "GET", path, 200)
        assert found["DeviceID"] == services.device_id
    await ask(client, "GET", "/hdhr/k%2F%C3%A4/tuners.html", 404)
    for wrong in ("/hdhr/", "/hdhr/other", "/hdhr/other/", "/hdhr/other/tuners.html", "/hdhr/k/%C3%A4"):
        await ask(client, "GET", wrong, 401)


def named(*chosen: str) -> list[tuple[int, Channel]]:
    made = [
        parse(Channel, {"id": f"{n}", "slug": f"c{n}", "name": "C", "url": "http://h/", "tvg_chno": c})
        for n, c in enumerate(chosen)
    ]
    return list(enumerate(made, start=1))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (("", ""), ["1001", "1002"]),
        (("5", "5.1", "05", "5"), ["5", "5.1", "1003", "1004"]),
        (("", "1001", ""), ["10000001", "1001", "1003"]),
        (("five", "5a", "-5", "5.", "123456", "٥"), ["1001", "1002", "1003", "1004", "1005", "1006"]),
    ],
)
def test_every_number_is_there_once(chosen: tuple[str, ...], expected: list[str]) -> None:
    assert [number for number, _ in numbers(named(*chosen))] == expected


async def test_numbers_stay_when_other_channels_come_and_go(tmp_path: Path) -> None:
    store = await Store.open(tmp_path / "tvarr.db")
    for name in ("a", "b", "c"):
        await store.add_channel(channel(name))
    await store.remove_channel("b")
    await store.add_channel(channel("d"))
    await store.close()
    store = await Store.open(tmp_path / "tvarr.db")
    found = {c.slug: number for number, c in numbers(await store.numbered_channels())}
    await store.close()
    assert found == {"a": "1001", "c": "1003", "d": "1004"}
