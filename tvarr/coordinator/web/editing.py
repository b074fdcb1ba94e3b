"""Versions of what editors read and write, so that two of them do not overwrite each other."""

from __future__ import annotations

from aiohttp import web

from tvarr.coordinator.models import Channel, Group, Profile, version_of
from tvarr.coordinator.store import Versions
from tvarr.coordinator.web.routes import json_answer


def one(thing: Channel | Profile, status: int = 200) -> web.Response:
    """The answer with the version that an edit may name (RFC 9110, 8.8.3)."""
    return with_version(json_answer(thing, status), thing)


def created(thing: Channel | Profile, location: str) -> web.Response:
    """The answer to the making of something that can be read at `location` from now on."""
    answer = one(thing, 201)
    answer.headers["Location"] = location
    return answer


def with_version(answer: web.Response, thing: Channel | Group | Profile) -> web.Response:
    answer.etag = version_of(thing)
    return answer


def versions_in(request: web.Request) -> Versions:
    """What `If-Match` names (RFC 9110, 13.1.1); None where any version will do."""
    given = request.if_match
    return None if given is None or any(tag.value == "*" for tag in given) else {tag.value for tag in given}
