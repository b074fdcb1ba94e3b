"""What ffmpeg's last lines mean where it fetched a source: a code and one line in words. Pure.

The words were collected from FFmpeg 5.1.9 and 9.0.2.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tvarr.errors import ErrorCode
from tvarr.ffmpeg.errors import Failure, classify

_UNREACHABLE, _GONE, _DENIED = ErrorCode.SOURCE_UNREACHABLE, ErrorCode.SOURCE_GONE, ErrorCode.SOURCE_DENIED
_UNSUPPORTED, _BAD_INPUT = ErrorCode.UNSUPPORTED, ErrorCode.BAD_INPUT


def _row(pattern: str, code: ErrorCode, message: str) -> tuple[re.Pattern[str], ErrorCode, str]:
    return re.compile(pattern, re.IGNORECASE), code, message


SOURCE_CAUSES = (
    _row(r"Failed to resolve hostname|Name or service not known", _UNREACHABLE, "the source's host name is not known"),
    _row(r"not on whitelist|Protocol not found|No such protocol", _UNSUPPORTED, "the source leads to what is not read"),
    _row(
        r"\b40[13] (?:Unauthorized|Forbidden)|authorization failed|Server returned 40[13]|failed: 40[13]\b"
        r"|authmod|Access denied|NetStream\.Authenticate|bad secret|wrong (?:secret|password)|incorrect passphrase",
        _DENIED,
        "the source's host wants other credentials",
    ),
    _row(
        r"Server returned 4(?:04|10)|\b4(?:04|10) (?:Not Found|Gone)|failed: 4(?:04|10)\b|StreamNotFound"
        r"|Stream Not Found",
        _GONE,
        "the source's host does not have it (404)",
    ),
    _row(r"Server returned 5XX|\b5\d\d [A-Z]\w+|failed: 5\d\d\b", _UNREACHABLE, "the source's host has trouble (5xx)"),
    _row(r"Server returned 4|failed: 4\d\d\b", _DENIED, "the source's host refuses the request (4xx)"),
    _row(r"Connection refused", _GONE, "the source's host refuses the connection"),
    _row(r"timed out", _UNREACHABLE, "the source's host does not answer"),
    _row(r"No route to host|Network is unreachable", _UNREACHABLE, "there is no way to the source's host"),
    _row(r"Address already in use|bind failed", _UNREACHABLE, "the source's port is taken on the daemon's host"),
    _row(r"Connection reset|Broken pipe", _UNREACHABLE, "the source's host broke the connection off"),
    _row(
        r"Invalid data found when processing input|Could not find codec parameters|Unknown input format"
        r"|does not contain any stream|matches no streams",
        _BAD_INPUT,
        "what the source sends is nothing that ffmpeg reads",
    ),
    _row(r"End of file", _GONE, "the source ended before anything could be shown"),
    _row(r"Input/output error", _UNREACHABLE, "the source's host does not answer, or wants other credentials"),
)
"""What is more telling stands first."""


def classify_fetch(lines: Sequence[str], returncode: int | None) -> Failure:
    """Says why a source could not be fetched, or not be read to its end; as `tvarr.ffmpeg.errors.classify`."""
    if returncode is not None and returncode < 0:
        return classify((), returncode)
    for pattern, code, message in SOURCE_CAUSES:
        if any(pattern.search(line) for line in lines):
            return Failure(code, message, code in {_UNREACHABLE, _UNSUPPORTED}, False)
    return classify(lines, returncode)
