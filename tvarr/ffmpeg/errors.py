"""What ffmpeg's last lines mean: a code, one line in words, and what may help.

Pure. Exit codes are not portable (5.1 gives 1 where 9.0 gives 187, 234, 171, 218, 255), so the text decides. The words
were collected from FFmpeg 5.1.9 and 9.0.2, those of NVENC against stub libraries.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tvarr.errors import ErrorCode, JobError

MAX_STDERR_LINES = 40


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a run of ffmpeg failed."""

    code: ErrorCode
    message: str  # one line
    retry_elsewhere: bool  # another daemon or GPU may do it
    retry_in_software: bool  # a software encoder may do it

    def as_error(self, stderr: Sequence[str] = ()) -> JobError:
        """The same as an exception, with the last lines of `stderr`."""
        return JobError(
            self.code,
            self.message,
            stderr=stderr[-MAX_STDERR_LINES:],
            retry_elsewhere=self.retry_elsewhere,
            retry_in_software=self.retry_in_software,
        )


@dataclass(frozen=True, slots=True)
class Cause:
    """One row of the table: a line that matches `pattern` means `code`; `{0}` in the message is its first group."""

    pattern: re.Pattern[str]
    code: ErrorCode
    message: str
    elsewhere: bool
    software: bool


def _row(pattern: str, code: ErrorCode, message: str, helps: str = "") -> Cause:
    """`helps` names what may help: "elsewhere", "software", both or neither."""
    return Cause(re.compile(pattern), code, message, "elsewhere" in helps, "software" in helps)


_BOTH = "elsewhere software"

DEVICE_CAUSES: tuple[Cause, ...] = (
    _row(
        r"OpenEncodeSessionEx failed: (?:out of memory \(10\)|incompatible client key \(21\))",
        ErrorCode.SESSION_LIMIT,
        "the NVIDIA driver refuses another encoder session (session limit, or no video memory left)",
        _BOTH,
    ),
    _row(
        r"OpenEncodeSessionEx failed: (?:unsupported device \(2\)|no encode device \(1\))",
        ErrorCode.GPU_UNAVAILABLE,
        "this GPU can't be used for NVENC (no encoder, or hidden by the container's runtime)",
        _BOTH,
    ),
    _row(
        r"Driver does not support the required nvenc API version",
        ErrorCode.DRIVER_TOO_OLD,
        "the NVIDIA driver is older than this ffmpeg's NVENC needs",
        _BOTH,
    ),
    _row(
        r"Cannot load libnvidia-encode\.so",
        ErrorCode.GPU_UNAVAILABLE,
        "libnvidia-encode is missing: in a container set NVIDIA_DRIVER_CAPABILITIES=video,compute,utility",
        _BOTH,
    ),
    _row(
        r"Cannot load libcuda\.so",
        ErrorCode.GPU_UNAVAILABLE,
        "no NVIDIA driver, or a container without its 'compute' capability",
        _BOTH,
    ),
    _row(
        r"cu\w+\([^)]*\) failed -> CUDA_ERROR_(\w+)",
        ErrorCode.GPU_UNAVAILABLE,
        "CUDA failed: {0}",
        _BOTH,
    ),
    _row(
        r"InitializeEncoder failed: invalid param \(8\)|Frame Dimension less than the minimum",
        ErrorCode.FRAME_SIZE,
        "the hardware encoder does not take this picture size",
        "software",
    ),
    _row(
        r"Svt\[error\]: (?:Instance \d+: )?Max Bitrate must be greater than Target Bitrate",
        ErrorCode.UNSUPPORTED,
        "this version of SVT-AV1 has no constant bitrate for live work (1.4 has not)",
        "elsewhere",
    ),
    _row(
        r"No decoder surfaces left",
        ErrorCode.GPU_UNAVAILABLE,
        "the hardware decoder has no surfaces left",
        _BOTH,
    ),
    _row(
        r"(?:\[h26[45]|\[hevc|\[av1|\[mpeg2video)[^\]]*\] No support for codec|Codec not supported by hardware decoder"
        r"|Failed setup for format (?:cuda|vaapi|qsv|vulkan|drm_prime)",
        ErrorCode.UNSUPPORTED,
        "the hardware decoder does not take this stream",
        _BOTH,
    ),
    _row(
        r"No VA display found for device (\S+?)\.?$",
        ErrorCode.PERMISSION,
        "{0} can't be opened: missing, or this user is not in the group that owns it",
        _BOTH,
    ),
    _row(
        r"Failed to initialise VAAPI connection",
        ErrorCode.GPU_UNAVAILABLE,
        "the libva driver for this GPU is missing or the wrong one",
        _BOTH,
    ),
    _row(
        r"No usable encoding (?:entrypoint|profile) found",
        ErrorCode.UNSUPPORTED,
        "this GPU's VAAPI driver does not encode this codec",
        _BOTH,
    ),
    _row(
        r"Driver does not support (?:any )?(?:\S+ )?RC mode|Driver does not support CBR",
        ErrorCode.UNSUPPORTED,
        "this GPU's VAAPI driver lacks the rate control that was asked for",
        _BOTH,
    ),
    _row(
        r"Error creating a MFX session: -?\d+|Error initializing an internal MFX session",
        ErrorCode.GPU_UNAVAILABLE,
        "the Quick Sync runtime or its device is missing",
        _BOTH,
    ),
    _row(r"Could not find a valid device", ErrorCode.GPU_UNAVAILABLE, "no V4L2 memory-to-memory encoder", _BOTH),
    _row(r"libamfrt\S+ failed to open", ErrorCode.GPU_UNAVAILABLE, "AMD's AMF runtime is missing", _BOTH),
    _row(
        r"Device does not support the VK_KHR_video_\w+ extension",
        ErrorCode.UNSUPPORTED,
        "this Vulkan device has no video encoder",
        _BOTH,
    ),
    _row(
        r"/dev/\S+.*Permission denied|Permission denied.*/dev/",
        ErrorCode.PERMISSION,
        "the device node may not be opened by this user",
        _BOTH,
    ),
)
"""Causes in hardware, its drivers and libraries."""

SOFTWARE_CAUSES: tuple[Cause, ...] = (
    _row(r"^tvarr: (.+ can't be run: .+)", ErrorCode.FFMPEG_EXITED, "{0}", "elsewhere"),
    _row(r"Unknown encoder '([^']*)'", ErrorCode.UNSUPPORTED, "this ffmpeg has no encoder {0}", _BOTH),
    _row(r"Unknown decoder '([^']*)'", ErrorCode.UNSUPPORTED, "this ffmpeg has no decoder {0}", "elsewhere"),
    _row(r"No such filter: '([^']*)'", ErrorCode.UNSUPPORTED, "this ffmpeg has no filter {0}", _BOTH),
    _row(
        r"Decod(?:ing requested, but no decoder found|er \(codec \S+\) not found)|[Nn]o decoder found for",
        ErrorCode.UNSUPPORTED,
        "this ffmpeg can't decode one of the tracks",
        "elsewhere",
    ),
    _row(r"Error setting preset/tune ([^/]*)/", ErrorCode.BAD_REQUEST, "the encoder has no preset {0}"),
    _row(r"invalid preset '([^']*)'", ErrorCode.BAD_REQUEST, "the encoder has no preset {0}"),
    _row(
        r"Error setting option (\S+) to value (.+?)\.?$",
        ErrorCode.BAD_REQUEST,
        "the encoder does not take {1} for option {0}",
    ),
    _row(
        r"(?:Unrecognized option|Option) '?([\w:-]+)'?(?:\.| not found)",
        ErrorCode.UNSUPPORTED,
        "this ffmpeg does not know option {0}",
        "elsewhere",
    ),
    _row(
        r"Specified (?:sample rate|channel layout|channel count) .*not supported|sample rate \d+ is not supported",
        ErrorCode.BAD_REQUEST,
        "the audio encoder does not take this sample rate or channel count",
    ),
    _row(
        r"does not support encoding at size|Current resolution is unsupported|\b(?:[Ww]idth|[Hh]eight) must be at least"
        r"|of \d+x\d+ too (?:small|large)|not divisible by 2|[Pp]icture size \S+ is invalid",
        ErrorCode.FRAME_SIZE,
        "the encoder does not take this picture size",
        "software",
    ),
    _row(
        r"does not support (\d+/\d+) fps",
        ErrorCode.BAD_REQUEST,
        "the encoder does not take {0} pictures a second",
    ),
    _row(
        r"Cannot allocate memory|malloc of size \d+ failed|Out of memory",
        ErrorCode.OUT_OF_MEMORY,
        "ffmpeg ran out of memory",
        "elsewhere",
    ),
    _row(
        r"(?:pthread_create\(\) failed|opening (?:de|en)coder\b.*|into filter network) ?: Resource temporarily",
        ErrorCode.CAPACITY,
        "ffmpeg gets no more threads: the user or the container may have no more (ulimit -u, pids.max)",
        "elsewhere",
    ),
    _row(r"No space left on device", ErrorCode.FFMPEG_EXITED, "no space left on a disk of this daemon", "elsewhere"),
)
"""Causes in the build, the request and the host."""

INPUT_CAUSES: tuple[Cause, ...] = (
    _row(
        r"Stream map '.*' matches no streams|could not find codec parameters|Could not find codec parameters"
        r"|Output file (?:#\d+ )?does not contain any stream",
        ErrorCode.BAD_INPUT,
        "one of the tracks never came, or is not what it was announced as",
    ),
    _row(
        r"Cannot determine format of input|Invalid data found when processing input|Error while decoding"
        r"|Error submitting (?:a )?packet to (?:the )?decoder|decode_slice_header error|no frame!|Header missing",
        ErrorCode.BAD_INPUT,
        "the input can't be decoded",
    ),
    _row(
        r"Could not open encoder before EOF|Nothing was written into output file|Output file is empty",
        ErrorCode.BAD_INPUT,
        "nothing in the input could be decoded",
    ),
)
"""Causes in the input. Broken pictures are an everyday thing, so these count only where nothing else was said."""

GENERIC_CAUSES: tuple[Cause, ...] = (
    _row(
        r"No capable devices found|Device creation failed|Could not dynamically load CUDA"
        r"|No device available for decoder",
        ErrorCode.GPU_UNAVAILABLE,
        "the hardware device can't be used",
        _BOTH,
    ),
    _row(
        r"Error while opening encoder",
        ErrorCode.FFMPEG_EXITED,
        "the encoder can't be opened",
        _BOTH,
    ),
)
"""What ffmpeg says after a specific line, or where it knows no better."""

NOT_STARTED: Mapping[int, tuple[ErrorCode, str]] = {
    errno.EAGAIN: (ErrorCode.CAPACITY, "this user or container may have no more processes (ulimit -u, pids.max)"),
    errno.EMFILE: (ErrorCode.CAPACITY, "this daemon may have no more files open (ulimit -n)"),
    errno.ENFILE: (ErrorCode.CAPACITY, "this host has as many files open as it can (fs.file-max)"),
    errno.ENOMEM: (ErrorCode.OUT_OF_MEMORY, "this host has no memory left for it"),
}
"""Why the system starts no process now. It starts one again when others have ended: the daemon itself is sound."""

_TIERS = (DEVICE_CAUSES + SOFTWARE_CAUSES, GENERIC_CAUSES, INPUT_CAUSES)
_SIGNALS = {4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE", 9: "SIGKILL", 11: "SIGSEGV", 15: "SIGTERM"}


def classify(lines: Sequence[str], returncode: int | None) -> Failure:
    """Says why a run failed, from its last lines of stderr and its return code (negative: minus the signal).

    The first line that names a specific cause wins; input errors and generic tails count only where there is none.
    A death by signal that no line explains is told as such. None as `returncode`: it still runs or was never started.
    """
    specific, *lesser = (_first(lines, tier) for tier in _TIERS)
    if specific is not None:
        return specific
    if returncode is not None and returncode < 0:
        return _killed(-returncode)
    for failure in lesser:
        if failure is not None:
            return failure
    ended = "ffmpeg failed" if returncode is None else f"ffmpeg ended with exit code {returncode}"
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Failure(ErrorCode.FFMPEG_EXITED, f"{ended}: {last}" if last else f"{ended} without a word", True, True)


def not_started(error: OSError) -> Failure:
    """Says why no process could be made of ffmpeg."""
    code, words = NOT_STARTED.get(error.errno or 0, (ErrorCode.UNSUPPORTED, str(error.strerror or error)))
    return Failure(code, f"ffmpeg can't be run: {words}", True, False)


def _first(lines: Iterable[str], causes: Sequence[Cause]) -> Failure | None:
    for line in lines:
        for cause in causes:
            if match := cause.pattern.search(line):
                return Failure(cause.code, cause.message.format(*match.groups()), cause.elsewhere, cause.software)
    return None


def _killed(signal: int) -> Failure:
    name = _SIGNALS.get(signal, f"signal {signal}")
    if signal == 9:
        return Failure(
            ErrorCode.FFMPEG_EXITED, f"ffmpeg was killed ({name}): perhaps the host is out of memory", True, False
        )
    return Failure(ErrorCode.FFMPEG_EXITED, f"ffmpeg died of {name}", True, True)
