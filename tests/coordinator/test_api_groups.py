"""Channel groups over HTTP."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.coordinator.web_server import RELAY, Client, Served, ask


async def add(client: Client, name: str, group: str) -> Any:
    body = {"name": name, "url": f"http://h/{name}.ts", "group": group}
    return await ask(client, "POST", "/api/v1/channels", 201, json=body)


async def test_a_group_is_there_with_its_channels_and_keeps_its_limit_without_them(served: Served) -> None:
    client, services = served
    await add(client, "one", "Pay TV")
    await add(client, "two", "Pay TV")
    await add(client, "three", "")
    services.running += [copy.deepcopy(RELAY), {**copy.deepcopy(RELAY), "id": "r2"}]
    services.running[1]["source"]["counts"] = False

    plain = {"name": "Pay TV", "max_connections": 0, "channels": 2, "connections": 1, "relays": ["r1"]}
    assert await ask(client, "GET", "/api/v1/groups", 200) == [plain]
    assert await ask(client, "GET", "/api/v1/groups/Pay%20TV", 200) == plain
    await ask(client, "DELETE", "/api/v1/groups/Pay%20TV", 404)

    limited = await ask(client, "PUT", "/api/v1/groups/Pay%20TV", 200, json={"max_connections": 2})
    assert limited == {**plain, "max_connections": 2}
    other = await ask(client, "PUT", "/api/v1/groups/News%20%2F%20Sport", 200, json={"max_connections": 1})
    assert (other["name"], other["channels"]) == ("News / Sport", 0)
    assert [group["name"] for group in await ask(client, "GET", "/api/v1/groups", 200)] == ["News / Sport", "Pay TV"]
    assert await ask(client, "GET", "/api/v1/groups?limit=1&offset=1", 200) == [limited]

    await ask(client, "DELETE", "/api/v1/groups/News%20%2F%20Sport", 204)
    await ask(client, "GET", "/api/v1/groups/News%20%2F%20Sport", 404)
    await ask(client, "DELETE", "/api/v1/groups/Pay%20TV", 204)
    assert await ask(client, "GET", "/api/v1/groups/Pay%20TV", 200) == plain


@pytest.mark.parametrize("body", [{"max_connections": -1}, {"max_connections": "many"}, {"limit": 3}, [], 5])
async def test_settings_that_are_refused(served: Served, body: object) -> None:
    await ask(served[0], "PUT", "/api/v1/groups/A", 400, json=body)
    await ask(served[0], "GET", "/api/v1/groups/A", 404)


@pytest.mark.parametrize("name", ["x" * 201, "a%0Ab", "%20"])
async def test_names_that_are_none(served: Served, name: str) -> None:
    problem = await ask(served[0], "PUT", f"/api/v1/groups/{name}", 400, json={"max_connections": 1})
    assert problem["detail"].startswith("name: ")


async def test_two_editors_do_not_overwrite_each_other(served: Served) -> None:
    client, _ = served
    path = "/api/v1/groups/Pay"
    await add(client, "one", "Pay")
    async with client.get(path) as answer:
        unset = answer.headers["ETag"]
    async with client.put(path, json={"max_connections": 1}, headers={"If-Match": unset}) as answer:
        assert answer.status == 200
        newest = answer.headers["ETag"]
    assert newest != unset
    for method, body in (("PUT", {"max_connections": 5}), ("DELETE", None)):
        await ask(client, method, path, 412, json=body, headers={"If-Match": unset})
    await ask(client, "DELETE", path, 204, headers={"If-Match": newest})


async def test_another_group_of_a_channel_is_told_to_its_relay(served: Served) -> None:
    client, services = served
    key = (await add(client, "one", "A"))["id"]
    await ask(client, "PATCH", f"/api/v1/channels/{key}", 200, json={"group": "B"})
    assert services.asked == [("edited", key)]
