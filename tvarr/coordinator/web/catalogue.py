"""Channels and profiles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from tvarr.coordinator.models import SOURCE_FIELDS, Channel, ChannelCreate, Profile, ProfileCreate, parse
from tvarr.coordinator.store import Versions
from tvarr.coordinator.web.editing import created, one, versions_in
from tvarr.coordinator.web.routes import Route, json_answer, json_body, json_object, page_of
from tvarr.coordinator.web.schemas import TrialView
from tvarr.coordinator.web.services import CoordinatorServices, services_of


async def list_channels(request: web.Request) -> web.Response:
    return page_of(request, await services_of(request).store.channels())


async def add_channel(request: web.Request) -> web.Response:
    new = parse(ChannelCreate, await json_body(request))
    channel = await services_of(request).store.add_channel(new)
    return created(channel, f"/api/v1/channels/{channel.id}")


async def get_channel(request: web.Request) -> web.Response:
    return one(await services_of(request).store.channel(request.match_info["id"]))


async def change_channel(request: web.Request) -> web.Response:
    changes = await json_object(request)
    return one(await edit_channel(services_of(request), request.match_info["id"], changes, versions_in(request)))


async def edit_channel(
    services: CoordinatorServices, key: str, changes: Mapping[str, Any], versions: Versions
) -> Channel:
    """Changes a channel as the store does; its relay ends where what it is made from has changed."""
    before, after = await services.store.change_channel(key, changes, versions)
    await tell(services, before, after)
    return after


async def tell(services: CoordinatorServices, before: Channel, after: Channel) -> None:
    """Lets a relay that runs know what is another now."""
    if any(getattr(before, field) != getattr(after, field) for field in SOURCE_FIELDS):
        await services.channel_changed(after.id)
    else:
        services.channel_edited(after)


async def test_channel(request: web.Request) -> web.Response:
    services = services_of(request)
    channel = await services.store.channel(request.match_info["id"])
    return json_answer(await services.test_channel(channel.id))


async def remove_channel(request: web.Request) -> web.Response:
    await delete_channel(services_of(request), request.match_info["id"], versions_in(request))
    return web.Response(status=204)


async def delete_channel(services: CoordinatorServices, key: str, versions: Versions = None) -> None:
    """Forgets a channel and ends its relay. Raises `NotFound`, and `Stale` as the store does."""
    removed = await services.store.remove_channel(key, versions)
    await services.channel_changed(removed.id)


async def list_profiles(request: web.Request) -> web.Response:
    return page_of(request, await services_of(request).store.profiles())


async def add_profile(request: web.Request) -> web.Response:
    new = parse(ProfileCreate, await json_body(request))
    profile = await services_of(request).store.add_profile(new)
    return created(profile, f"/api/v1/profiles/{profile.name}")


async def get_profile(request: web.Request) -> web.Response:
    return one(await services_of(request).store.profile(request.match_info["name"]))


async def change_profile(request: web.Request) -> web.Response:
    changes = await json_object(request)
    name = request.match_info["name"]
    return one(await edit_profile(services_of(request), name, changes, versions_in(request)))


async def edit_profile(
    services: CoordinatorServices, name: str, changes: Mapping[str, Any], versions: Versions
) -> Profile:
    """Changes a profile as the store does; who watches under it follows."""
    profile = await services.store.change_profile(name, changes, versions)
    services.profile_changed(profile)
    return profile


async def remove_profile(request: web.Request) -> web.Response:
    await services_of(request).store.remove_profile(request.match_info["name"], versions_in(request))
    return web.Response(status=204)


CHANNELS, CHANNEL = "/api/v1/channels", "/api/v1/channels/{id}"
PROFILES, PROFILE = "/api/v1/profiles", "/api/v1/profiles/{name}"
ROUTES = (
    Route(method="GET", path=CHANNELS, handler=list_channels, summary="All channels", answer=[Channel], paged=True),
    Route(
        method="POST",
        path=CHANNELS,
        handler=add_channel,
        summary="Add a channel",
        body=ChannelCreate,
        answer=Channel,
        status=201,
        errors=(409,),
        keeps=True,
    ),
    Route(
        method="GET",
        path=CHANNEL,
        handler=get_channel,
        summary="A channel by id or slug",
        answer=Channel,
        errors=(404,),
    ),
    Route(
        method="PATCH",
        path=CHANNEL,
        handler=change_channel,
        summary="Change fields of a channel; null: back to not set",
        body=ChannelCreate,
        partial=True,
        answer=Channel,
        errors=(404, 409),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="DELETE",
        path=CHANNEL,
        handler=remove_channel,
        summary="Remove a channel; its streams end",
        status=204,
        errors=(404,),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="POST",
        path=CHANNEL + "/test",
        handler=test_channel,
        summary="Watch a channel for a moment: whether its source can be read, and its tracks",
        answer=TrialView,
        errors=(404,),
    ),
    Route(method="GET", path=PROFILES, handler=list_profiles, summary="All profiles", answer=[Profile], paged=True),
    Route(
        method="POST",
        path=PROFILES,
        handler=add_profile,
        summary="Add a profile",
        body=ProfileCreate,
        answer=Profile,
        status=201,
        errors=(409,),
        keeps=True,
    ),
    Route(method="GET", path=PROFILE, handler=get_profile, summary="A profile", answer=Profile, errors=(404,)),
    Route(
        method="PATCH",
        path=PROFILE,
        handler=change_profile,
        summary="Change fields of a profile",
        body=ProfileCreate,
        partial=True,
        answer=Profile,
        errors=(404, 409),
        versioned=True,
        keeps=True,
    ),
    Route(
        method="DELETE",
        path=PROFILE,
        handler=remove_profile,
        summary="Remove a profile",
        status=204,
        errors=(404, 409),
        versioned=True,
        keeps=True,
    ),
)
