"""An NVIDIA GPU with few encoder sessions, as a process sees it: an executable in place of ffmpeg.

It offers `h264_nvenc` and `hevc_nvenc`, takes one of the host's sessions for whoever encodes with them, and then
becomes the real ffmpeg with libx264 or libx265 in their place: the process id, the pipes and the signals stay. With all
sessions taken it says what FFmpeg says then, and ends.

A session is an exclusive flock on one of the files `session-N` in the host's folder, whose descriptor the real ffmpeg
inherits: the kernel frees it with the process, however that ends, and nothing else does. The file holds the GPU that
the session is on. Who takes or counts sessions holds the lock on `gate` meanwhile, so that counting never makes one
seem taken. Where the host's driver closes sessions slowly, the process ends as late: it then stays what it is, and runs
the real ffmpeg as its child.

Jobs wait for this script, so it imports little.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

GATE, LOG, REFUSAL = "gate", "log", "refusal"
SESSION = "session-"
EXIT_CODE = 187  # of FFmpeg 9.0, AVERROR_EXTERNAL; 5.1 ends with 1

FAST = ["-preset", "ultrafast", "-tune", "zerolatency"]
ENCODERS = {
    "h264_nvenc": ["libx264", *FAST],
    "hevc_nvenc": ["libx265", *FAST, "-x265-params", "open-gop=0:log-level=warning"],
}
SOFTWARE = {"libx264", "libx265", "aac"}  # of the real ffmpeg's; a daemon tries all that are listed before it starts
LISTED = """\
 V....D h264_nvenc           NVIDIA NVENC H.264 encoder (codec h264)
 V....D hevc_nvenc           NVIDIA NVENC hevc encoder (codec hevc)
"""
DROPPED = {
    *("-init_hw_device", "-filter_hw_device", "-hwaccel", "-hwaccel_device", "-hwaccel_output_format"),
    *("-extra_hw_frames", "-rc", "-rc-lookahead", "-delay", "-zerolatency", "-tune", "-preset"),
}
"""Options with a value that libx264 does not take, or that `ENCODERS` gives it."""

FILTERS = (("scale_cuda=format=", "format="), ("scale_cuda=", "scale="), ("yadif_cuda=", "yadif="))


def main(folder: str, real: str, closes_within_s: float) -> None:
    """Does what ffmpeg would do on a host whose sessions are in `folder`; `real` is the path of an ffmpeg.

    Closing a session takes the driver up to `closes_within_s`.
    """
    args = sys.argv[1:]
    if "-encoders" in args or "-hwaccels" in args:
        sys.stdout.write(listing(real, args))
        return
    encoder = next((word for word in args if word in ENCODERS), "")
    if encoder:
        gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        session = take(folder, gpu)
        purpose = "trial" if "lavfi" in args else "job"
        record(folder, "refused" if session is None else "granted", os.getpid(), purpose, encoder)
        if session is None:
            with open(f"{folder}/{REFUSAL}") as words:
                sys.stderr.write(words.read().replace("h264_nvenc", encoder))
            sys.stderr.flush()
            os._exit(EXIT_CODE)
        args = in_software(args)
        if closes_within_s and (child := os.fork()):
            close_slowly(session, child, closes_within_s)
        os.set_inheritable(session, not closes_within_s)
    os.execv(real, [real, *args])


def close_slowly(session: int, child: int, closes_within_s: float) -> None:
    """Waits for the real ffmpeg, which gets the group's signals itself, and ends as it did, only later."""
    import random
    import signal

    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.closerange(0, session)
    os.closerange(session + 1, 1024)
    _, status = os.waitpid(child, 0)
    time.sleep(random.uniform(0.0, closes_within_s))
    if os.WIFSIGNALED(status):
        signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    os._exit(os.WEXITSTATUS(status))


def take(folder: str, gpu: str) -> int | None:
    """Opens a session on a GPU: a descriptor that holds it until its last copy is closed. None: all are taken."""
    with open(f"{folder}/{GATE}") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for name in sessions(folder):
            file = os.open(f"{folder}/{name}", os.O_RDWR)
            if _locked(file):
                os.ftruncate(file, 0)
                os.write(file, gpu.encode())
                return file
            os.close(file)
    return None


def count(folder: str, gpu: str = "") -> int:
    """How many sessions are open now; with `gpu`, on that one."""
    held = 0
    with open(f"{folder}/{GATE}") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        for name in sessions(folder):
            file = os.open(f"{folder}/{name}", os.O_RDWR)
            held += not _locked(file) and (not gpu or os.read(file, 100).decode() == gpu)
            os.close(file)
    return held


def sessions(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith(SESSION))


def _locked(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def record(folder: str, what: str, *more: object) -> None:
    """Adds a line to the host's log: the time (monotonic, seconds), what happened, and to whom."""
    log = os.open(f"{folder}/{LOG}", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    words = " ".join(map(str, more))
    os.write(log, f"{time.monotonic():.6f} {what} {words}\n".encode())
    os.close(log)


def in_software(args: list[str]) -> list[str]:
    """A command for NVENC as one for libx264 or libx265."""
    out: list[str] = []
    words = iter(args)
    for word in words:
        if word in DROPPED:
            next(words)
        elif word == "-cq":
            out += ["-crf", next(words)]
        elif word == "-b:v" and (value := next(words)) != "0":
            out += [word, value]
        elif word in ENCODERS:
            out += ENCODERS[word]
        elif word in {"-vf", "-filter:v"}:
            filters = next(words)
            for name, replacement in FILTERS:
                filters = filters.replace(name, replacement)
            out += [word, filters]
        elif word != "-b:v":
            out.append(word)
    return out


def listing(real: str, args: list[str]) -> str:
    """What the real ffmpeg lists, with CUDA, and some of its encoders with NVENC."""
    import subprocess

    text = subprocess.run([real, *args], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout
    if "-hwaccels" in args:
        return text if "cuda\n" in text else f"{text.rstrip()}\ncuda\n"
    head, rule, encoders = text.partition(" ------\n")
    return head + rule + "".join(line for line in encoders.splitlines(True) if line.split()[1] in SOFTWARE) + LISTED
