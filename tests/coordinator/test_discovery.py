"""Searches for tuners, and what is answered."""

from __future__ import annotations

import asyncio
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.coordinator.discovery import MAX_ANSWERS_PER_S, Discovery, answer, answer_searches, looks_for
from tvarr.coordinator.hdhomerun import Tuner

# Byte by byte what Jellyfin's HdHomerunHost sends: any device, any type
JELLYFIN = bytes([0, 2, 0, 12, 1, 4, 255, 255, 255, 255, 2, 4, 255, 255, 255, 255, 115, 204, 125, 143])
OURS, OTHER = "10F00005", "10439EFD"


def tuner(address: str = "192.0.2.7") -> Tuner:
    return Tuner(OURS, 4, f"http://{address}:8080", f"http://{address}:8080")


def packet(*tags: bytes, kind: int = 2) -> bytes:
    payload = b"".join(tags)
    head = kind.to_bytes(2, "big") + len(payload).to_bytes(2, "big") + payload
    return head + zlib.crc32(head).to_bytes(4, "little")


def tag(number: int, value: bytes) -> bytes:
    return bytes((number, len(value))) + value


TUNERS, STORAGES = (1).to_bytes(4, "big"), (5).to_bytes(4, "big")


@pytest.mark.parametrize(
    ("question", "is_ours"),
    [
        (JELLYFIN, True),
        (packet(tag(1, TUNERS), tag(2, bytes.fromhex(OURS))), True),
        (packet(tag(0x2D, STORAGES + TUNERS), tag(2, b"\xff" * 4)), True),
        (packet(tag(0x77, b"later"), tag(1, TUNERS)), True),
        (packet(tag(1, TUNERS), tag(2, bytes.fromhex(OTHER))), False),
        (packet(tag(1, STORAGES), tag(2, b"\xff" * 4)), False),
        (packet(tag(0x2D, STORAGES)), False),
        (packet(tag(1, TUNERS), kind=4), False),
        (JELLYFIN[:-1] + b"\x00", False),
        (JELLYFIN + b"\x00", False),
        (b"", False),
    ],
)
def test_questions(question: bytes, is_ours: bool) -> None:
    assert looks_for(question, OURS) is is_ours


@given(st.binary(max_size=2000))
def test_any_packet_is_answered_or_not(data: bytes) -> None:
    assert not looks_for(data, OURS)
    looks_for(packet(data[:1400]), OURS)


def tags_of(reply: bytes) -> dict[int, bytes]:
    """As libhdhomerun reads them; lengths here are below 128."""
    assert reply[-4:] == zlib.crc32(reply[:-4]).to_bytes(4, "little")
    assert int.from_bytes(reply[:2], "big") == 3
    payload, found, at = reply[4:-4], {}, 0
    assert int.from_bytes(reply[2:4], "big") == len(payload)
    while at < len(payload):
        found[payload[at]] = payload[at + 2 : at + 2 + payload[at + 1]]
        at += 2 + payload[at + 1]
    return found


def test_the_answer_says_where_the_tuner_is() -> None:
    assert tags_of(answer(tuner())) == {
        0x01: TUNERS,
        0x02: bytes.fromhex(OURS),
        0x10: b"\x04",
        0x2B: b"tvarr",
        0x2A: b"http://192.0.2.7:8080",
        0x27: b"http://192.0.2.7:8080/lineup.json",
    }


class Client(asyncio.DatagramProtocol):
    def __init__(self) -> None:
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()

    def datagram_received(self, data: bytes, _addr: object) -> None:
        self.replies.put_nowait(data)


async def test_searches_are_answered_over_udp_and_no_more_than_some() -> None:
    loop, clock = asyncio.get_running_loop(), [1000.0]
    serving, _ = await loop.create_datagram_endpoint(lambda: Discovery(tuner, lambda: clock[0]), ("127.0.0.1", 0))
    transport, client = await loop.create_datagram_endpoint(Client, remote_addr=serving.get_extra_info("sockname"))
    for question in (b"nonsense", *[JELLYFIN] * (MAX_ANSWERS_PER_S + 5)):
        transport.sendto(question)
    async with asyncio.timeout(10):
        replies = [await client.replies.get() for _ in range(MAX_ANSWERS_PER_S)]
        await asyncio.sleep(0.1)
        assert client.replies.empty()
        clock[0] += 1
        transport.sendto(packet(tag(1, TUNERS)))
        replies.append(await client.replies.get())
    assert {tags_of(reply)[0x2A] for reply in replies} == {b"http://127.0.0.1:8080"}
    taken = serving.get_extra_info("sockname")[1]
    assert await answer_searches(tuner, "127.0.0.1", taken) is None  # and prevents nothing
    for one in (transport, serving):
        one.close()
