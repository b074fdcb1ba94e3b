"""Channel groups: how many connections their channels may have to the provider, and how many they have."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from tvarr.coordinator.models import Channel, Group, GroupFields, parse
from tvarr.coordinator.web.editing import versions_in, with_version
from tvarr.coordinator.web.routes import Route, json_answer, json_body, page_of
from tvarr.coordinator.web.schemas import GroupView
from tvarr.coordinator.web.services import CoordinatorServices, View, services_of


def _view(group: Group, channels: Sequence[Channel], relays: Sequence[View]) -> View:
    using = [relay["id"] for relay in relays if relay["channel"]["group"] == group.name and relay["source"]["counts"]]
    return {
        **group.model_dump(),
        "channels": sum(channel.group == group.name for channel in channels),
        "connections": len(using),
        "relays": using,
    }


async def _one(request: web.Request, group: Group) -> web.Response:
    services = services_of(request)
    return with_version(json_answer(_view(group, await services.store.channels(), services.relays())), group)


async def group_views(services: CoordinatorServices) -> list[View]:
    """All groups, as the API shows them."""
    groups, channels, relays = await services.store.groups(), await services.store.channels(), services.relays()
    return [_view(group, channels, relays) for group in groups]


async def list_groups(request: web.Request) -> web.Response:
    return page_of(request, await group_views(services_of(request)))


async def get_group(request: web.Request) -> web.Response:
    return await _one(request, await services_of(request).store.group(request.match_info["name"]))


async def set_group(request: web.Request) -> web.Response:
    fields = parse(GroupFields, await json_body(request))
    group = await services_of(request).store.set_group(request.match_info["name"], fields, versions_in(request))
    return await _one(request, group)


async def remove_group(request: web.Request) -> web.Response:
    await services_of(request).store.remove_group(request.match_info["name"], versions_in(request))
    return web.Response(status=204)


GROUPS, GROUP = "/api/v1/groups", "/api/v1/groups/{name}"
ROUTES = (
    Route(method="GET", path=GROUPS, handler=list_groups, summary="All channel groups", answer=[GroupView], paged=True),
    Route(
        method="GET",
        path=GROUP,
        handler=get_group,
        summary="A channel group by its name",
        answer=GroupView,
        errors=(404,),
    ),
    Route(
        method="PUT",
        path=GROUP,
        handler=set_group,
        summary="Set how many connections to the provider its channels may have at once",
        body=GroupFields,
        answer=GroupView,
        versioned=True,
        keeps=True,
    ),
    Route(
        method="DELETE",
        path=GROUP,
        handler=remove_group,
        summary="Forget the group's settings; its channels stay",
        status=204,
        errors=(404,),
        versioned=True,
        keeps=True,
    ),
)
