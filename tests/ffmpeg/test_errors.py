from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from tvarr.errors import ErrorCode
from tvarr.ffmpeg.errors import MAX_STDERR_LINES, classify

TAIL = [
    "[vost#0:0/h264_nvenc @ 0x56] [enc:h264_nvenc @ 0x56] Error while opening encoder - maybe incorrect",
    "[vf#0:0 @ 0x56] Error sending frames to consumers: Operation not permitted",
    "[out#0/mpegts @ 0x56] Nothing was written into output file, because at least one of its streams",
]
NVENC = "[h264_nvenc @ 0x5566]"


@pytest.mark.parametrize(
    ("line", "code", "elsewhere", "software"),
    [
        (f"{NVENC} OpenEncodeSessionEx failed: out of memory (10): (no details)", ErrorCode.SESSION_LIMIT, True, True),
        (f"{NVENC} OpenEncodeSessionEx failed: incompatible client key (21)", ErrorCode.SESSION_LIMIT, True, True),
        (f"{NVENC} OpenEncodeSessionEx failed: unsupported device (2)", ErrorCode.GPU_UNAVAILABLE, True, True),
        (f"{NVENC} OpenEncodeSessionEx failed: no encode device (1)", ErrorCode.GPU_UNAVAILABLE, True, True),
        (
            f"{NVENC} Driver does not support the required nvenc API version. Required: 13.1 Found: 12.0",
            ErrorCode.DRIVER_TOO_OLD,
            True,
            True,
        ),
        (f"{NVENC} Cannot load libnvidia-encode.so.1", ErrorCode.GPU_UNAVAILABLE, True, True),
        (f"{NVENC} Cannot load libcuda.so.1", ErrorCode.GPU_UNAVAILABLE, True, True),
        (f"{NVENC} InitializeEncoder failed: invalid param (8): Frame Dim", ErrorCode.FRAME_SIZE, False, True),
        ("[h264 @ 0x1] No decoder surfaces left", ErrorCode.GPU_UNAVAILABLE, True, True),
        ("[VAAPI @ 0x1] No VA display found for device /dev/dri/renderD128.", ErrorCode.PERMISSION, True, True),
        ("[VAAPI @ 0x1] Failed to initialise VAAPI connection: -1 (unknown)", ErrorCode.GPU_UNAVAILABLE, True, True),
        ("[hevc_vaapi] No usable encoding entrypoint found for profile 17.", ErrorCode.UNSUPPORTED, True, True),
        ("[QSV @ 0x1] Error creating a MFX session: -9.", ErrorCode.GPU_UNAVAILABLE, True, True),
        (
            "[h264_qsv @ 0x1] Error initializing an internal MFX session: unsupported (-3)",
            ErrorCode.GPU_UNAVAILABLE,
            True,
            True,
        ),
        ("[h264_v4l2m2m @ 0x1] Could not find a valid device", ErrorCode.GPU_UNAVAILABLE, True, True),
        ("[h264_amf @ 0x1] DLL libamfrt64.so.1 failed to open", ErrorCode.GPU_UNAVAILABLE, True, True),
        (
            "[h264_vulkan] Device does not support the VK_KHR_video_encode_queue extension!",
            ErrorCode.UNSUPPORTED,
            True,
            True,
        ),
        ("Unknown encoder 'libx266'", ErrorCode.UNSUPPORTED, True, True),
        ("[AVFilterGraph @ 0x1] No such filter: 'yadif_cuda'", ErrorCode.UNSUPPORTED, True, True),
        ("[libx265 @ 0x1] Error setting preset/tune foo/(null).", ErrorCode.BAD_REQUEST, False, False),
        ("[libx264 @ 0x1] Error setting option crf to value xx.", ErrorCode.BAD_REQUEST, False, False),
        ("av_interleaved_write_frame(): Cannot allocate memory", ErrorCode.OUT_OF_MEMORY, True, False),
        ("[af#0:1 @ 0x1] pthread_create() failed: Resource temporarily unavailable", ErrorCode.CAPACITY, True, False),
        (
            "Error while opening decoder for input stream #0:0 : Resource temporarily unavailable",
            ErrorCode.CAPACITY,
            True,
            False,
        ),
        (
            "[dec:h264 @ 0x1] Error while opening decoder: Resource temporarily unavailable",
            ErrorCode.CAPACITY,
            True,
            False,
        ),
        (
            "Failed to inject frame into filter network: Resource temporarily unavailable",
            ErrorCode.CAPACITY,
            True,
            False,
        ),
    ],
)
def test_the_first_specific_line_wins(line: str, code: ErrorCode, elsewhere: bool, software: bool) -> None:
    noise = ["[h264 @ 0x1] no frame!", "[mpegts @ 0x1] PES packet size mismatch"]
    failure = classify([*noise, line, *TAIL], 187)
    assert (failure.code, failure.retry_elsewhere, failure.retry_in_software) == (code, elsewhere, software)
    assert failure.message
    assert "\n" not in failure.message


@pytest.mark.parametrize(
    ("lines", "returncode", "code", "words"),
    [
        (["Unknown encoder 'x'"], 1, ErrorCode.UNSUPPORTED, "no encoder x"),
        (["[h264 @ 0x1] no frame!", TAIL[2]], 1, ErrorCode.BAD_INPUT, "can't be decoded"),
        (["[h264 @ 0x1] no frame!", *TAIL], 1, ErrorCode.FFMPEG_EXITED, "encoder can't be opened"),
        (["[mpeg2video @ 0x1] MPEG-1/2 does not support 7/1 fps", *TAIL], 1, ErrorCode.BAD_REQUEST, "7/1 pictures"),
        (["[enc:libx264 @ 0x1] Could not open encoder before EOF"], 1, ErrorCode.BAD_INPUT, "could be decoded"),
        ([TAIL[0]], 1, ErrorCode.FFMPEG_EXITED, "encoder can't be opened"),
        (["[h264 @ 0x1] no frame!"], -11, ErrorCode.FFMPEG_EXITED, "SIGSEGV"),
        ([], -9, ErrorCode.FFMPEG_EXITED, "killed (SIGKILL): perhaps the host is out of memory"),
        ([], -35, ErrorCode.FFMPEG_EXITED, "signal 35"),
        (["something new"], 69, ErrorCode.FFMPEG_EXITED, "exit code 69: something new"),
        ([], 69, ErrorCode.FFMPEG_EXITED, "without a word"),
        (["", "  "], None, ErrorCode.FFMPEG_EXITED, "ffmpeg failed without a word"),
        (["100% {0} {1}"], 1, ErrorCode.FFMPEG_EXITED, "100% {0} {1}"),
    ],
)
def test_where_nothing_specific_was_said(
    lines: Sequence[str], returncode: int | None, code: ErrorCode, words: str
) -> None:
    failure = classify(lines, returncode)
    assert failure.code is code
    assert words in failure.message


def test_as_an_exception_it_keeps_the_last_lines() -> None:
    lines = [f"line {n}" for n in range(100)]
    error = classify(lines, 1).as_error(lines)
    assert error.stderr == tuple(lines[-MAX_STDERR_LINES:])
    assert error.retry_in_software


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["-c:v", "nope"], ErrorCode.UNSUPPORTED),
        (["-c:v", "libx264", "-preset", "nope"], ErrorCode.BAD_REQUEST),
        (["-c:v", "libx264", "-crf", "nope"], ErrorCode.BAD_REQUEST),
        (["-vf", "nope", "-c:v", "libx264"], ErrorCode.UNSUPPORTED),
        (["-nope", "1"], ErrorCode.UNSUPPORTED),
        (["-map", "0:i:0x44", "-c:v", "libx264"], ErrorCode.BAD_INPUT),
    ],
)
def test_what_a_real_ffmpeg_says(ffmpeg: str, arguments: list[str], code: ErrorCode) -> None:
    source = ["-f", "lavfi", "-i", "testsrc2=s=64x64:r=25:d=0.2"]
    done = subprocess.run(
        [ffmpeg, "-hide_banner", "-nostdin", "-v", "warning", *source, *arguments, "-f", "null", "-"],
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode != 0
    failure = classify(done.stderr.splitlines(), done.returncode)
    assert failure.code is code, done.stderr
