"""
A web service over the plans of one database: create, spawn, find, take steps, delete.

    DATABASE_URL=postgresql://… uvicorn --app-dir examples --factory fastapi_service.app:create_app

It needs ``pip install 'cleveragents-plans[asyncio,postgresql]' fastapi uvicorn``, and a database
at the newest revision (``cleveragents-plans upgrade``). There is no authentication: it is one
service behind another.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import fastapi
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from sqlalchemy.ext.asyncio import AsyncSession

from cleveragents_plans import AsyncPlanRepository, Plan, PlanView, open_async_engine, read_only
from fastapi_service.bodies import AnyStep, Listing, NewChild, NewPlan, Query
from fastapi_service.errors import RESPONSES, handle_errors


async def _writing(request: Request) -> AsyncIterator[AsyncPlanRepository]:
    async with AsyncSession(request.app.state.engine) as session, session.begin():
        yield AsyncPlanRepository(session)


async def _reading(request: Request) -> AsyncIterator[AsyncPlanRepository]:
    async with AsyncSession(read_only(request.app.state.engine)) as session:
        yield AsyncPlanRepository(session)


# A request is a transaction, which ends before the response is sent: else a client could be told
# of a plan that is not stored. That is what the scope is for.
Writing = Annotated[AsyncPlanRepository, Depends(_writing, scope="function")]
Reading = Annotated[AsyncPlanRepository, Depends(_reading, scope="function")]

router = APIRouter(prefix="/plans", responses=RESPONSES)


@router.post("", status_code=201)
async def create(body: NewPlan, plans: Writing, response: Response) -> PlanView:
    """Create a plan."""
    plan = await plans.add(Plan.create(**body.given()))
    response.headers["Location"] = f"/plans/{plan.plan_id}"
    return PlanView.of(plan)


@router.post("/{plan_id}/children", status_code=201)
async def spawn(plan_id: str, body: NewChild, plans: Writing, response: Response) -> PlanView:
    """Spawn a plan under another."""
    parent = await plans.get(plan_id)
    plan = await plans.add(parent.spawn(**body.given()))
    response.headers["Location"] = f"/plans/{plan.plan_id}"
    return PlanView.of(plan)


@router.get("")
async def list_plans(query: Annotated[Query, fastapi.Query()], plans: Reading) -> Listing:
    """List plans, a page at a time. A row that cannot be read is logged and left out."""
    page = await plans.list(on_corrupt="log", **query.given())
    return Listing(plans=[*map(PlanView.of, page)], next_cursor=page.next_cursor)


@router.get("/{plan_id}")
async def get(plan_id: str, plans: Reading) -> PlanView:
    """Read one plan."""
    return PlanView.of(await plans.get(plan_id))


@router.get("/{plan_id}/tree")
async def tree(plan_id: str, plans: Reading) -> list[PlanView]:
    """List every plan of the tree whose root the plan is."""
    return [*map(PlanView.of, await plans.tree(plan_id))]


@router.post("/{plan_id}/steps")
async def take_step(plan_id: str, step: AnyStep, plans: Writing) -> PlanView:
    """Let a plan take a step; if another writer is faster, from where that one left the plan."""
    return PlanView.of(await plans.change(plan_id, step.take))


@router.delete("/{plan_id}", status_code=204)
async def delete(plan_id: str, plans: Writing) -> None:
    """Delete one plan; its children are detached."""
    await plans.delete(await plans.get(plan_id))


@router.delete("/{plan_id}/tree")
async def delete_tree(plan_id: str, plans: Writing) -> int:
    """Delete a root and every plan of its tree; answer how many."""
    return await plans.delete_tree(plan_id)


def create_app(url: str | None = None) -> FastAPI:
    """Make the service, for the database that *url* or ``DATABASE_URL`` names."""
    engine = open_async_engine(os.environ["DATABASE_URL"] if url is None else url)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.dispose()

    app = FastAPI(title="Plans", lifespan=lifespan)
    app.state.engine = engine
    app.include_router(router)
    handle_errors(app)
    return app
