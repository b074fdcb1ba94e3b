"""One row a route of the API: what serves it and what describes it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from tvarr.coordinator.web.problems import Handler
from tvarr.coordinator.web.schemas import Problem
from tvarr.errors import InvalidRequest

EVENT_STREAM = "text/event-stream"

MAX_LIMIT, MAX_OFFSET = 1_000, 1_000_000_000
PAGING: list[dict[str, Any]] = [
    {"name": "limit", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT}},
    {"name": "offset", "in": "query", "schema": {"type": "integer", "minimum": 0, "maximum": MAX_OFFSET}},
]
IF_MATCH: dict[str, Any] = {
    "name": "If-Match",
    "in": "header",
    "description": "the ETag of what was read: 412 where it is another by now",
    "schema": {"type": "string"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """`body` and `answer` are what travels; `[Model]` is a list of them, a string a media type."""

    method: str
    path: str
    handler: Handler
    summary: str
    body: type[BaseModel] | None = None
    partial: bool = False  # the body names only what changes
    answer: type[BaseModel] | list[type[BaseModel]] | str | None = None
    status: int = 200
    query: tuple[str, ...] = ()
    paged: bool = False  # a list of which a part may be asked for: `page_of`
    versioned: bool = False  # takes `If-Match`, and answers 412
    keeps: bool = False  # changes what is kept on disk, which may fail
    other_body: str = ""  # a media type that is taken besides JSON
    open: bool = False  # needs no password
    errors: tuple[int, ...] = ()  # besides those that follow from the rest


def to_aiohttp(routes: Sequence[Route]) -> list[web.RouteDef]:
    """GET answers HEAD as well, but for the endless one."""
    return [
        web.get(route.path, route.handler, allow_head=route.answer != EVENT_STREAM)
        if route.method == "GET"
        else web.route(route.method, route.path, route.handler)
        for route in routes
    ]


async def json_body(request: web.Request) -> Any:  # noqa: ANN401 - any JSON value
    """The request's body. Raises `InvalidRequest`."""
    return json_of(await request.read())


def json_of(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """What a body says. Raises `InvalidRequest`."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as error:
        words = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise InvalidRequest(f"the body is not JSON: {words}") from None


async def json_object(request: web.Request) -> dict[str, Any]:
    """The same, where it must be an object."""
    body = await json_body(request)
    if not isinstance(body, dict):
        raise InvalidRequest("the body is not a JSON object")
    return body


def json_answer(value: BaseModel | Sequence[BaseModel] | Any, status: int = 200) -> web.Response:  # noqa: ANN401
    if isinstance(value, BaseModel):
        text = value.model_dump_json()
    elif isinstance(value, list) and value and isinstance(value[0], BaseModel):
        text = f"[{','.join(item.model_dump_json() for item in value)}]"
    else:
        text = json.dumps(value, ensure_ascii=False)
    return web.Response(status=status, text=text, content_type="application/json")


def page_of(request: web.Request, items: Sequence[Any]) -> web.Response:
    """A list, or the part that `limit` and `offset` ask for; where there is more, `Link` says where (RFC 8288)."""
    limit, offset = _number(request, "limit", 1, MAX_LIMIT), _number(request, "offset", 0, MAX_OFFSET)
    first = offset or 0
    until = len(items) if limit is None else min(first + limit, len(items))
    answer = json_answer(list(items[first:until]))
    answer.headers["X-Total-Count"] = str(len(items))
    if limit is not None and until < len(items):
        answer.headers["Link"] = f'<{request.rel_url.update_query(limit=limit, offset=until)}>; rel="next"'
    return answer


def _number(request: web.Request, name: str, least: int, most: int) -> int | None:
    """A whole number in the query; None where it is not there. Raises `InvalidRequest`."""
    text = request.query.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not least <= int(text) <= most:
        raise InvalidRequest(f"{name}: takes a whole number from {least} to {most}")
    return int(text)


def openapi(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """The description of the routes (OpenAPI 3.1)."""
    models = {model for route in routes for model in _models(route)} | {Problem}
    ordered = sorted(models, key=lambda model: model.__name__)
    _, definitions = models_json_schema(
        [(model, "validation") for model in ordered], ref_template="#/components/schemas/{model}"
    )
    schemas = definitions.get("$defs", {})
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "tvarr", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "password": {"type": "http", "scheme": "bearer", "description": "the admin password"},
                "session": {"type": "apiKey", "in": "cookie", "name": "tvarr_session"},
            },
        },
        "security": [{"password": []}, {"session": []}],
    }


def _models(route: Route) -> list[type[BaseModel]]:
    answers = route.answer if isinstance(route.answer, list) else [route.answer]
    return [m for m in (route.body, *answers) if isinstance(m, type) and issubclass(m, BaseModel)]


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    names = re.findall(r"{(\w+)}", route.path)
    parameters = [{"name": n, "in": "path", "required": True, "schema": {"type": "string"}} for n in names]
    parameters += [{"name": n, "in": "query", "schema": {"type": "string"}} for n in route.query]
    parameters += PAGING if route.paged else []
    parameters += [IF_MATCH] if route.versioned else []
    operation: dict[str, Any] = {"summary": route.summary, "responses": {str(route.status): _success(route)}}
    bad = (400,) if route.body or route.paged else ()
    stale = (412,) if route.versioned else ()
    disk = (503, 507) if route.keeps else ()
    errors = sorted({*route.errors, *(() if route.open else (401, 429)), *bad, *stale, *disk})
    for status in errors:
        operation["responses"][str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": _body(route, route.body, schemas)}
    if route.open:
        operation["security"] = []
    return operation


def _success(route: Route) -> dict[str, Any]:
    described: dict[str, Any] = {"description": HTTPStatus(route.status).phrase}
    match route.answer:
        case None:
            pass
        case str():
            described["content"] = {route.answer: {}}
        case list():
            described["content"] = {"application/json": {"schema": {"type": "array", "items": _ref(route.answer[0])}}}
        case _:
            described["content"] = {"application/json": {"schema": _ref(route.answer)}}
    return described


def _body(route: Route, model: type[BaseModel], schemas: dict[str, Any]) -> dict[str, Any]:
    schema = _ref(model)
    if route.partial:
        whole = schemas[model.__name__]
        schema = {key: value for key, value in whole.items() if key != "required"}
    content = {"application/json": {"schema": schema}}
    if route.other_body:
        content[route.other_body] = {"schema": {"type": "string"}}
    return content


def _ref(model: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{model.__name__}"}
