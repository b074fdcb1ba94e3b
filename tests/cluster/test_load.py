"""What a job costs by the table, and what is learned from how fast jobs run."""

from __future__ import annotations

import pytest

from tests.cluster.build import MP2_AUDIO, X264, nvenc
from tvarr.cluster.load import FACTORS, corrected, cost_cores, fitted
from tvarr.cluster.model import Encoder, Family, Need, Target
from tvarr.media.model import Codec, Track

FULL_HD = Track(1, Codec.H264, width=1920, height=1080, fps=30.0)
MEGAPIXELS = 1.92 * 1.08 * 30  # a second


def video(track: Track = FULL_HD, *, width: int = 0, height: int = 0, fps: float = 0.0, preset: str = "") -> Need:
    return Need((Target(track, Codec.H264, width=width, height=height, fps=fps, preset=preset),))


@pytest.mark.parametrize(
    ("wanted", "encoder", "cores"),
    [
        pytest.param(video(), X264, MEGAPIXELS * (0.006 + 0.0155), id="the default preset"),
        pytest.param(video(preset="medium"), X264, MEGAPIXELS * (0.006 + 0.058), id="a preset"),
        pytest.param(video(preset="odd"), X264, MEGAPIXELS * (0.006 + 0.0155), id="a preset that nobody measured"),
        pytest.param(video(fps=15.0), X264, MEGAPIXELS * (0.006 + 0.0155 / 2), id="every other picture"),
        pytest.param(video(width=960), X264, MEGAPIXELS * (0.006 + 0.0155 / 4), id="smaller"),
        pytest.param(video(width=3840, height=2160), X264, MEGAPIXELS * (0.006 + 0.0155), id="never larger"),
        pytest.param(
            video(Track(1, Codec.H264)), X264, 1.92 * 1.08 * 25 * (0.006 + 0.0155), id="of which nothing is known"
        ),
        pytest.param(
            video(Track(1, Codec.HEVC, width=1920, height=1080, fps=30.0)),
            Encoder("libnew", Codec.H264, Family.SOFTWARE),
            MEGAPIXELS * (0.008 + 0.05),
            id="an encoder that nobody measured",
        ),
        pytest.param(video(), nvenc(), MEGAPIXELS * (0.006 + 0.001), id="up to a hardware encoder"),
        pytest.param(Need((Target(MP2_AUDIO, Codec.AAC),) * 2), None, 0.04, id="two sound tracks"),
        pytest.param(Need((), protocol="srt"), None, 0.04, id="a source that is fetched"),
        pytest.param(
            Need((*video().targets, Target(MP2_AUDIO, Codec.AAC)), protocol="srt"),
            X264,
            MEGAPIXELS * (0.006 + 0.0155) + 0.02 + 0.04,
            id="all of it",
        ),
    ],
)
def test_costs(wanted: Need, encoder: Encoder | None, cores: float) -> None:
    assert cost_cores(wanted, encoder, hw_decode=False) == pytest.approx(cores)


def test_pictures_that_never_leave_the_gpu_cost_their_packets() -> None:
    assert cost_cores(video(), nvenc(), hw_decode=True) == pytest.approx(MEGAPIXELS * 0.0003)


@pytest.mark.parametrize(
    ("width", "height", "size"),
    [
        (0, 0, (1920, 1080)),
        (1280, 0, (1280, 720)),
        (0, 360, (640, 360)),
        (640, 640, (640, 360)),
        (4000, 540, (960, 540)),
    ],
)
def test_pictures_are_fitted_into_a_box(width: int, height: int, size: tuple[int, int]) -> None:
    (target,) = video(width=width, height=height).targets
    assert fitted(target) == size


@pytest.mark.parametrize(
    ("factor", "cpus", "load", "speeds", "expected"),
    [
        pytest.param(1.0, 4, 2.0, [(0.5, 2.0)], (1 + 4 / 1.0) / 2, id="a job that does not keep up"),
        pytest.param(1.0, 4, 3.0, [(0.5, 2.0)], (1 + 4 / 2.0) / 2, id="beside one that was not measured"),
        pytest.param(1.0, 4, 2.0, [(1.0, 1.0), (0.5, 1.0)], (1 + 4 / 1.5) / 2, id="beside one that does"),
        pytest.param(2.0, 64, 1.0, [(1.0, 1.0)], 1.95, id="slowly back"),
        pytest.param(0.5, 64, 1.0, [(1.0, 1.0)], 0.525, id="and up again"),
        pytest.param(1.005, 64, 1.0, [(1.0, 1.0)], 1.0, id="and there in the end"),
        pytest.param(2.0, 1, 4.0, [(1.0, 4.0)], 0.25, id="more than the table allows"),
        pytest.param(9.0, 64, 1.0, [(0.1, 1.0)], FACTORS[1], id="at most"),
        pytest.param(1.0, 1, 100.0, [(1.0, 100.0)], FACTORS[0], id="at least"),
        pytest.param(2.0, 0, 1.0, [(0.5, 1.0)], 2.0, id="processors that nobody counted"),
        pytest.param(2.0, 4, 1.0, [], 2.0, id="nothing measured"),
        pytest.param(2.0, 4, 1.0, [(0.0, 1.0)], 2.0, id="nothing done"),
    ],
)
def test_what_is_learned(
    factor: float, cpus: int, load: float, speeds: list[tuple[float, float]], expected: float
) -> None:
    assert corrected(factor, cpus, load, speeds) == pytest.approx(expected)
