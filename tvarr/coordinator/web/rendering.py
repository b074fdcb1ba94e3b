"""Pages out of templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tvarr.coordinator.source import redact
from tvarr.coordinator.web import words
from tvarr.coordinator.web.services import services_of
from tvarr.errors import InvalidRequest

PAGES = web.AppKey("pages", Environment)


def environment(folder: Path) -> Environment:
    """The pages' templates; a name that a page uses and nobody gave is an error, not a gap."""
    pages = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(
        size=words.size_words,
        rate=words.rate_words,
        duration=words.duration_words,
        percent=words.percent_words,
        clock=words.clock_words,
        codec=words.codec_words,
        last_known=words.last_known,
        spark=words.spark,
        redacted=redact,
    )
    return pages


def render(request: web.Request, template: str, values: Mapping[str, Any], status: int = 200) -> web.Response:
    services = services_of(request)
    page = request.app[PAGES].get_template(template)
    text = page.render(
        version=services.version,
        path=request.path,
        login_used=not services.auth.disabled,
        key_query="?" + urlencode({"key": services.stream_key}) if services.stream_key else "",
        **values,
    )
    return web.Response(text=text, content_type="text/html", status=status)


async def form_of(request: web.Request) -> dict[str, str]:
    """What a page's form sends. Raises `InvalidRequest` for what is no form."""
    try:
        return {key: str(value) for key, value in (await request.post()).items()}
    except (ValueError, HttpProcessingError) as error:
        raise InvalidRequest(f"the form can't be read: {' '.join(str(error).split())}") from None
