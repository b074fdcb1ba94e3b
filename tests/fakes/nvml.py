"""A stand-in for libnvidia-ml.so.1: C functions as pynvml calls them by ctypes, on cards that a test lays out.

It takes the place of the loaded library (`pynvml.nvmlLib`), so all of pynvml runs for real above it.
"""
# ruff: noqa: N802 - the names are NVML's

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pynvml


@dataclass
class Card:
    """One GPU. `refuses` maps C function names to the error that they return for this card."""

    uuid: str
    name: str
    pci_bus: int = 1
    architecture: int = 8
    memory_bytes: int = 24 * 2**30
    sessions: int = 0
    utilization: int = 12
    encoder: int = 34
    decoder: int = 5
    temperature: int = 55
    milliwatts: int = 123_400
    refuses: dict[str, int] = field(default_factory=dict)


@dataclass
class FakeNvmlLibrary:
    """Answers like the library; `init_error` is what nvmlInit returns, `lost` makes every call answer UNKNOWN."""

    cards: Sequence[Card] = ()
    driver: str = "550.54.14"
    init_error: int = pynvml.NVML_SUCCESS
    lost: bool = False
    opened: int = 0
    closed: int = 0

    def __getattr__(self, name: str) -> Callable[..., int]:
        function = getattr(type(self), f"_{name.removesuffix('_v2').removesuffix('_v3')}", None)
        if function is None:
            raise AttributeError(name)  # as ctypes does for a symbol that an older driver lacks
        return lambda *arguments: self._call(name, function, arguments)

    def _call(self, name: str, function: Callable[..., None], arguments: tuple[Any, ...]) -> int:
        if name == "nvmlInitWithFlags":
            self.opened += self.init_error == pynvml.NVML_SUCCESS
            return self.init_error
        if name == "nvmlShutdown":
            self.closed += 1
            return pynvml.NVML_SUCCESS
        if self.lost:
            return pynvml.NVML_ERROR_UNKNOWN
        try:
            function(self, name, *arguments)
        except pynvml.NVMLError as error:
            return error.value
        return pynvml.NVML_SUCCESS

    def _card(self, name: str, handle: Any) -> Card:
        card = self.cards[ctypes.cast(handle, ctypes.c_void_p).value - 1]
        if name in card.refuses:
            raise pynvml.NVMLError(card.refuses[name])
        return card

    def _nvmlInitWithFlags(self) -> None: ...
    def _nvmlShutdown(self) -> None: ...

    def _nvmlSystemGetDriverVersion(self, _name: str, text: Any, _size: Any) -> None:
        text.value = self.driver.encode()

    def _nvmlDeviceGetCount(self, _name: str, count: Any) -> None:
        count._obj.value = len(self.cards)

    def _nvmlDeviceGetHandleByIndex(self, name: str, index: Any, handle: Any) -> None:
        _point(handle._obj, index.value + 1)
        self._card(name, handle._obj)

    def _nvmlDeviceGetHandleByUUID(self, name: str, uuid: Any, handle: Any) -> None:
        for i, card in enumerate(self.cards):
            if card.uuid.encode() == uuid.value:
                _point(handle._obj, i + 1)
                self._card(name, handle._obj)
                return
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def _nvmlDeviceGetUUID(self, name: str, handle: Any, text: Any, _size: Any) -> None:
        text.value = self._card(name, handle).uuid.encode()

    def _nvmlDeviceGetName(self, name: str, handle: Any, text: Any, _size: Any) -> None:
        text.value = self._card(name, handle).name.encode("latin-1")

    def _nvmlDeviceGetPciInfo(self, name: str, handle: Any, info: Any) -> None:
        info._obj.bus = self._card(name, handle).pci_bus

    def _nvmlDeviceGetArchitecture(self, name: str, handle: Any, number: Any) -> None:
        number._obj.value = self._card(name, handle).architecture

    def _nvmlDeviceGetMemoryInfo(self, name: str, handle: Any, info: Any) -> None:
        card = self._card(name, handle)
        info._obj.total, info._obj.used = card.memory_bytes, card.memory_bytes // 4

    def _nvmlDeviceGetUtilizationRates(self, name: str, handle: Any, rates: Any) -> None:
        rates._obj.gpu = self._card(name, handle).utilization

    def _nvmlDeviceGetEncoderUtilization(self, name: str, handle: Any, percent: Any, _period: Any) -> None:
        percent._obj.value = self._card(name, handle).encoder

    def _nvmlDeviceGetDecoderUtilization(self, name: str, handle: Any, percent: Any, _period: Any) -> None:
        percent._obj.value = self._card(name, handle).decoder

    def _nvmlDeviceGetTemperature(self, name: str, handle: Any, _sensor: Any, celsius: Any) -> None:
        celsius._obj.value = self._card(name, handle).temperature

    def _nvmlDeviceGetPowerUsage(self, name: str, handle: Any, milliwatts: Any) -> None:
        milliwatts._obj.value = self._card(name, handle).milliwatts

    def _nvmlDeviceGetEncoderStats(self, name: str, handle: Any, count: Any, fps: Any, latency: Any) -> None:
        count._obj.value, fps._obj.value, latency._obj.value = self._card(name, handle).sessions, 30, 4000


def _point(pointer: Any, address: int) -> None:
    ctypes.memmove(ctypes.addressof(pointer), ctypes.byref(ctypes.c_void_p(address)), ctypes.sizeof(ctypes.c_void_p))


@contextmanager
def loaded(library: FakeNvmlLibrary) -> Iterator[FakeNvmlLibrary]:
    """Makes pynvml use `library` as if it had loaded it."""
    before = pynvml.nvmlLib
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlLib = library
    try:
        yield library
    finally:
        pynvml.nvmlLib = before
        pynvml._nvmlGetFunctionPointer_cache.clear()
