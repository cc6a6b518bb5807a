"""The example of a web service does over HTTP what the library does, on both engines."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import openapi_spec_validator
import pytest
import uvicorn
from sqlalchemy import create_engine, text

from cleveragents_plans import Plan, PlanView, new_ulid
from cleveragents_plans.persistence import PlanFilters
from fastapi_service.app import create_app
from fastapi_service.bodies import Query
from support.databases import ONE_OF_EACH, database_at, empty_database
from support.plans import ulid


class Served:
    """A service behind a real server, in a thread of its own, and a client of it."""

    def __init__(self, url: str) -> None:
        self._engine = create_engine(url)
        config = uvicorn.Config(create_app(url), port=0, log_level="warning")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()
        until = time.monotonic() + 60
        while not self._server.started:
            assert self._thread.is_alive()
            assert time.monotonic() < until
            time.sleep(0.01)
        port = self._server.servers[0].sockets[0].getsockname()[1]
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            timeout=240,
            trust_env=False,  # no proxy
        )

    def close(self) -> None:
        self.client.close()
        self._server.should_exit = True
        self._thread.join()
        self._engine.dispose()

    def execute(self, sql: str) -> None:
        with self._engine.begin() as connection:
            connection.execute(text(sql))


@pytest.fixture(scope="module", params=ONE_OF_EACH)
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    with database_at("head", request.param, tmp_path_factory.mktemp("served")) as url:
        served = Served(url)
        yield served
        served.close()


@pytest.fixture
def client(served: Served) -> Iterator[httpx.Client]:
    yield served.client
    served.execute("DELETE FROM v3_plans WHERE root_plan_id <> plan_id")
    served.execute("DELETE FROM v3_plans")


def create(client: httpx.Client, name: str = "local/lint", **fields: Any) -> dict[str, Any]:
    answer = client.post("/plans", json={"namespaced_name": name, **fields})
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def step(client: httpx.Client, plan_id: str, **body: Any) -> httpx.Response:
    return client.post(f"/plans/{plan_id}/steps", json=body)


def test_plan_is_created_and_read_again(client: httpx.Client):
    answer = client.post(
        "/plans",
        json={
            "namespaced_name": "team/refactor",
            "profile": "trusted",
            "project_links": ["api", {"project_name": "web", "read_only": True}],
            "arguments": {"b": [1, None], "a": "é"},
            "invariants": ["tests pass"],
            "tags": ["x"],
        },
    )

    assert answer.status_code == 201
    again = client.get(answer.headers["Location"])
    assert again.json() == answer.json()
    plan = PlanView.model_validate_json(again.text)
    assert (plan.namespace, plan.automation_profile.profile_name) == ("team", "trusted")
    assert [link.project_name for link in plan.project_links] == ["api", "web"]
    assert [*plan.arguments] == ["b", "a"]
    assert again.json()["allowed_steps"] == ["begin", "fail", "spawn", "cancel"]


def test_plan_that_is_created_twice_with_one_id_is_stored_once(client: httpx.Client):
    plan = create(client, plan_id=new_ulid())

    again = client.post(
        "/plans", json={"namespaced_name": "local/lint", "plan_id": plan["plan_id"]}
    )

    assert (again.status_code, again.json()["error"]) == (409, "PlanAlreadyStored")


def test_tree_is_spawned_listed_and_deleted(client: httpx.Client):
    root = create(client)
    answer = client.post(f"/plans/{root['plan_id']}/children", json={"description": "a part"})
    child = answer.json()

    assert answer.status_code == 201
    assert (child["parent_plan_id"], child["description"]) == (root["plan_id"], "a part")
    assert client.get(f"/plans/{root['plan_id']}/tree").json() == [root, child]
    branch = client.get(f"/plans/{child['plan_id']}/tree")
    assert (branch.status_code, branch.json()["error"]) == (409, "NotARoot")
    refused = client.delete(f"/plans/{root['plan_id']}")
    assert (refused.status_code, refused.json()["error"]) == (409, "RootInUse")
    assert client.delete(f"/plans/{root['plan_id']}/tree").json() == 2
    assert client.get(f"/plans/{root['plan_id']}").status_code == 404


def test_plan_is_deleted(client: httpx.Client):
    plan = create(client)

    assert client.delete(f"/plans/{plan['plan_id']}").status_code == 204
    assert client.delete(f"/plans/{plan['plan_id']}").status_code == 404


def test_steps_lead_to_where_verbs_lead(client: httpx.Client):
    plan_id = create(client)["plan_id"]

    for verb in ("begin", "complete", "advance", "begin"):
        answer = step(client, plan_id, step=verb)
        assert answer.status_code == 200, answer.text
    failed = step(client, plan_id, step="fail", message="no", details={"code": 1}).json()

    assert (failed["phase"], failed["processing_state"]) == ("strategize", "errored")
    assert (failed["error_message"], failed["error_details"]) == ("no", {"code": 1})
    refused = step(client, plan_id, step="complete")
    assert (refused.status_code, refused.json()["error"]) == (409, "StepNotAllowed")
    assert "allowed here: retry" in refused.json()["detail"]
    assert client.get(f"/plans/{plan_id}").json() == failed


def test_step_that_many_clients_ask_for_at_once_is_taken_by_one(client: httpx.Client):
    plan_id = create(client)["plan_id"]

    with ThreadPoolExecutor(8) as clients:
        answers = [*clients.map(lambda _: step(client, plan_id, step="begin"), range(8))]

    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 7
    assert {it.json()["error"] for it in answers if it.status_code == 409} == {"StepNotAllowed"}


def test_pages_lead_from_one_to_the_next_with_their_filters(client: httpx.Client):
    plans = [create(client, f"team/n{number}", tags=[f"t{number % 2}"]) for number in range(5)]
    create(client, "other/n")
    found: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        query = {"namespace": "team", "limit": "2", "order": "newest", **cursor}
        page = client.get("/plans", params=query).json()
        found += page["plans"]
        if page["next_cursor"] is None:
            break
        cursor = {"after": page["next_cursor"]}

    assert found == plans[::-1]
    one = client.get("/plans?tag=t1&namespace=team&phase=action&phase=apply&is_final=false").json()
    assert one["plans"] == plans[1::2]
    late = client.get("/plans", params={"created_from": plans[3]["created_at"]}).json()
    assert plans[3] in late["plans"]
    assert plans[0] not in late["plans"]


def test_every_filter_of_the_repository_can_be_asked_for():
    assert {*Query.model_fields} - {"order", "after", "limit"} == {*PlanFilters.__annotations__}


def test_corrupt_row_is_an_error_by_itself_and_hides_no_other(
    client: httpx.Client, served: Served, caplog: pytest.LogCaptureFixture
):
    broken, whole = create(client), create(client)
    served.execute(f"UPDATE v3_plans SET tags_json = '[' WHERE plan_id = '{broken['plan_id']}'")

    with caplog.at_level(logging.ERROR):
        assert client.get("/plans").json()["plans"] == [whole]
        answer = client.get(f"/plans/{broken['plan_id']}")

    assert (answer.status_code, answer.json()["error"]) == (500, "CorruptPlanRow")
    assert "tags_json" not in answer.text
    assert "tags_json" in caplog.text


def test_database_without_tables_is_no_service_yet(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with empty_database("sqlite", tmp_path) as url:
        (tmp_path / "plans.db").touch()  # one that is not there is `DatabaseMissing`
        served = Served(url)
        try:
            answer = served.client.get("/plans")
        finally:
            served.close()

    assert (answer.status_code, answer.json()["error"]) == (503, "SchemaMissing")
    assert "cleveragents-plans upgrade" in caplog.text


# What clients send by mistake, or on purpose

LONG = "A" * 10_000_000
AS_JSON = {"Content-Type": "application/json"}
BODIES: list[tuple[Any, str]] = [
    ({"namespaced_name": ""}, "InvalidFields"),
    ({"namespaced_name": "a b"}, "InvalidFields"),
    ({"namespaced_name": "a\0b"}, "InvalidFields"),
    ({"namespaced_name": "\ud800"}, "InvalidFields"),
    ({"namespaced_name": 5}, "InvalidRequest"),
    ({"namespaced_name": "lint", "plan_id": LONG}, "InvalidFields"),
    ({"namespaced_name": "lint", "plan_id": "x"}, "InvalidFields"),
    ({"namespaced_name": "lint", "description": "a\0b"}, "InvalidFields"),
    ({"namespaced_name": "lint", "description": "\ud800"}, "InvalidFields"),
    ({"namespaced_name": "lint", "tags": ["\udfff"]}, "InvalidFields"),
    ({"namespaced_name": "lint", "arguments": {"a": float("nan")}}, "InvalidFields"),
    ({"namespaced_name": "lint", "arguments": {"\ud800": 1}}, "InvalidFields"),
    ({"namespaced_name": "lint", "profile": "trustde"}, "UnknownProfile"),
    ({"namespaced_name": "lint", "colour": 1}, "InvalidRequest"),
    ({"namespaced_name": "lint", "\ud800": 1}, "InvalidRequest"),
    ({}, "InvalidRequest"),
    ([], "InvalidRequest"),
    (None, "InvalidRequest"),
]


def _named(value: Any) -> str:
    return ascii(value)[:60]


def refused(answer: httpx.Response, status: int, error: str) -> str:
    assert (answer.status_code, answer.json()["error"]) == (status, error), answer.text[:500]
    assert {*answer.json()} == {"error", "detail"}
    detail = str(answer.json()["detail"])
    assert len(detail.splitlines()) == 1
    assert len(detail) < 600
    return detail


@pytest.mark.parametrize(("body", "error"), BODIES, ids=_named)
def test_body_that_makes_no_plan_is_refused(client: httpx.Client, body: Any, error: str):
    # Not `json=`: httpx sends no lone surrogate and no NaN.
    answer = client.post("/plans", content=json.dumps(body), headers=AS_JSON)

    refused(answer, 422, error)

    assert client.get("/plans").json() == {"plans": [], "next_cursor": None}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff", b"[" * 100_000, b'{"namespaced_name": "a'])
def test_body_that_is_no_json_is_refused(client: httpx.Client, content: bytes):
    answer = client.post("/plans", content=content, headers=AS_JSON)

    assert answer.status_code in (400, 422)
    refused(answer, answer.status_code, answer.json()["error"])


@pytest.mark.parametrize(
    "body",
    [
        {"step": "spawn"},
        {"step": "model_copy"},
        {"step": "begin", "message": "x"},
        {"step": "fail"},
        {"message": "x"},
        {"step": ["begin"]},
    ],
    ids=_named,
)
def test_step_that_is_none_is_refused(client: httpx.Client, body: dict[str, Any]):
    plan = create(client)

    refused(step(client, plan["plan_id"], **body), 422, "InvalidRequest")

    assert client.get(f"/plans/{plan['plan_id']}").json() == plan


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        ("phases=action", "UnknownFilter", "did you mean 'phase'?"),
        ("state=queued", "UnknownFilter", "did you mean 'processing_state'?"),
        ("on_corrupt=raise", "UnknownFilter", "there is no filter 'on_corrupt'"),
        ("phase=begin", "InvalidRequest", "phase"),
        ("after=x", "InvalidValue", "after is 'x'; expected the next_cursor"),
        ("after=%00", "InvalidValue", "after is"),
        ("after=%ED%A0%80", "InvalidValue", "after is"),
        ("limit=-1", "InvalidRequest", "limit"),
        ("limit=0", "InvalidRequest", "limit"),
        ("limit=1e9", "InvalidRequest", "limit"),
        ("order=new", "InvalidRequest", "order"),
        ("created_from=2026-03-14T00:00:00", "InvalidValue", "expected a time zone"),
        ("created_before=yesterday", "InvalidRequest", "created_before"),
        ("namespace=a%00b", "InvalidValue", "text without NUL"),
        ("parent=x", "InvalidValue", "expected a ULID"),
        ("is_final=perhaps", "InvalidRequest", "is_final"),
    ],
)
def test_query_that_asks_for_nothing_is_refused(
    client: httpx.Client, query: str, error: str, said: str
):
    assert said in refused(client.get(f"/plans?{query}"), 422, error)


@pytest.mark.parametrize("plan_id", ["x", ulid(1), "%00", "%FF", "%ED%A0%80", "A" * 50_000])
def test_plan_that_is_not_there_is_not_found(client: httpx.Client, plan_id: str):
    for method, path in (("GET", ""), ("GET", "/tree"), ("DELETE", ""), ("DELETE", "/tree")):
        answer = client.request(method, f"/plans/{plan_id}{path}")

        assert answer.status_code in (404, 422)
        refused(answer, answer.status_code, answer.json()["error"])


def test_id_of_ten_megabytes_is_refused_by_the_server(client: httpx.Client):
    try:
        answer = client.get(f"/plans/{quote(LONG)}")
    except (httpx.InvalidURL, httpx.NetworkError):
        return  # by the client itself, or by a server that stopped listening
    assert answer.status_code == 400


def test_path_and_method_that_are_not_served_are_refused_alike(client: httpx.Client):
    refused(client.get("/plan"), 404, "Not Found")
    refused(client.put("/plans"), 405, "Method Not Allowed")


# The document of the API


def test_openapi_document_is_valid_and_names_every_answer(served: Served):
    document = served.client.get("/openapi.json").json()

    openapi_spec_validator.validate(document)
    operations = {
        f"{method} {path}": each
        for path, methods in document["paths"].items()
        for method, each in methods.items()
    }
    assert len(operations) == 8
    for operation in operations.values():
        assert operation["description"]
        problem = operation["responses"]["422"]["content"]["application/json"]["schema"]
        assert problem == {"$ref": "#/components/schemas/Problem"}
    asked = {each["name"] for each in operations["get /plans"]["parameters"]}
    assert {"phase", "after", "limit", "order"} < asked


def test_plan_view_in_json_is_the_plan(client: httpx.Client):
    sent = create(client)

    plan = PlanView.model_validate(sent)

    assert isinstance(plan, Plan)
    assert datetime.now(UTC) >= plan.created_at
