from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvarr.hwaccel.nvidia_models import Licence, classify_gpu, driver_limit, lacks_codec
from tvarr.media.model import Codec

NONE, RESTRICTED, UNRESTRICTED = Licence.NONE, Licence.RESTRICTED, Licence.UNRESTRICTED


@pytest.mark.parametrize(
    ("name", "licence", "engines"),
    [
        ("NVIDIA A100-SXM4-80GB", NONE, 0),
        ("NVIDIA A30", NONE, 0),
        ("NVIDIA H100 80GB HBM3", NONE, 0),
        ("NVIDIA H200 NVL", NONE, 0),
        ("NVIDIA GH200 480GB", NONE, 0),
        ("NVIDIA B200", NONE, 0),
        ("NVIDIA GeForce GT 1030", NONE, 0),
        ("NVIDIA GeForce MX350", NONE, 0),
        ("NVIDIA GeForce 930MX", NONE, 0),
        ("Quadro P500", NONE, 0),
        ("NVIDIA T500", NONE, 0),
        ("NVIDIA GeForce 940MX", RESTRICTED, 0),
        ("NVIDIA GeForce GT 730", RESTRICTED, 0),
        ("NVIDIA GeForce MX570", RESTRICTED, 0),
        ("Quadro P400", RESTRICTED, 1),
        ("Quadro P1000", RESTRICTED, 1),
        ("NVIDIA T400 4GB", RESTRICTED, 1),
        ("NVIDIA RTX A400", RESTRICTED, 1),
        pytest.param("Quadro P4000", UNRESTRICTED, 1, id="not the P400"),
        pytest.param("Quadro P5000", UNRESTRICTED, 1, id="not the P500"),
        pytest.param("Quadro P6000", UNRESTRICTED, 1, id="not the P600"),
        pytest.param("NVIDIA RTX A4000", UNRESTRICTED, 1, id="not the A400"),
        ("NVIDIA RTX 6000 Ada Generation", UNRESTRICTED, 1),
        ("Quadro RTX 4000", UNRESTRICTED, 1),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", UNRESTRICTED, 4),
        ("NVIDIA RTX PRO 4500 Blackwell", UNRESTRICTED, 1),
        ("NVIDIA L40S", UNRESTRICTED, 3),
        ("NVIDIA L40", UNRESTRICTED, 3),
        ("NVIDIA L4", UNRESTRICTED, 2),
        ("Tesla T4", UNRESTRICTED, 1),
        ("Tesla V100-SXM2-16GB", UNRESTRICTED, 1),
        ("NVIDIA A10G", UNRESTRICTED, 1),
        ("NVIDIA A2", UNRESTRICTED, 1),
        ("NVIDIA GeForce RTX 5090", RESTRICTED, 3),
        ("NVIDIA TITAN V", RESTRICTED, 3),
        ("NVIDIA GeForce RTX 4090", RESTRICTED, 2),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", RESTRICTED, 2),
        ("NVIDIA GeForce GTX 1080 Ti", RESTRICTED, 2),
        ("NVIDIA GeForce RTX 4070", RESTRICTED, 1),
        ("NVIDIA GeForce RTX 3090", RESTRICTED, 1),
        ("NVIDIA TITAN RTX", RESTRICTED, 1),
        ("GeForce GTX 1660 SUPER", RESTRICTED, 1),
    ],
)
def test_the_name_says_the_class(name: str, licence: Licence, engines: int) -> None:
    model = classify_gpu(name)
    assert (model.licence, model.engines, model.known) == (licence, engines, True)


@given(st.text())
def test_any_name_has_a_class(name: str) -> None:
    model = classify_gpu(name)
    if not model.known:
        assert (model.licence, model.engines) == (RESTRICTED, 1)


@pytest.mark.parametrize(
    ("driver", "sessions"),
    [
        ("610.43.02", 12),
        ("590.44.01", 12),
        ("580.95.05", 8),
        ("550.54.14", 8),
        pytest.param("550.40.07", 5, id="a beta before the change"),
        ("545.29.06", 5),
        ("530.30.02", 5),
        ("525.147.05", 3),
        ("455.23.04", 3),
        ("450.80.02", 2),
        ("390.157", 2),
        ("551.76", 8),
    ],
)
def test_the_driver_sets_the_limit(driver: str, sessions: int) -> None:
    limit = driver_limit(driver)
    assert (limit.sessions, limit.certain) == (sessions, True)
    assert limit.detail == f"driver {driver}: {sessions}"


@pytest.mark.parametrize(("driver", "said"), [("", "driver version not known"), ("n/a", "driver version 'n/a'")])
def test_an_unknown_driver_gets_the_lowest_and_says_so(driver: str, said: str) -> None:
    limit = driver_limit(driver)
    assert (limit.sessions, limit.certain) == (2, False)
    assert said in limit.detail
    assert "the lowest of all" in limit.detail


@given(st.lists(st.lists(st.integers(0, 999), min_size=1, max_size=3), min_size=2, max_size=2))
def test_a_newer_driver_never_allows_less(versions: list[list[int]]) -> None:
    older, newer = sorted(versions)
    limits = [driver_limit(".".join(map(str, version))).sessions for version in (older, newer)]
    assert limits[0] <= limits[1]


@pytest.mark.parametrize(
    ("architecture", "codec", "lacks"),
    [
        ("Turing", Codec.AV1, True),
        ("Ada", Codec.AV1, False),
        ("Blackwell", Codec.AV1, False),
        ("Kepler", Codec.HEVC, True),
        pytest.param("Maxwell", Codec.HEVC, False, id="the second generation does, a trial decides"),
        ("Maxwell", Codec.H264, False),
        pytest.param("", Codec.AV1, False, id="not known, a trial decides"),
    ],
)
def test_the_architecture_says_what_cannot_be(architecture: str, codec: Codec, lacks: bool) -> None:
    assert bool(lacks_codec(architecture, codec)) == lacks
