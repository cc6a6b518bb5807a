"""Models of an application with relationships to plans, which change `LifecyclePlanModel`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor

from sqlalchemy import Column, Engine, ForeignKey, MetaData, String, Table
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    backref,
    configure_mappers,
    mapped_column,
    relationship,
)

from cleveragents_plans import LifecyclePlanModel, open_engine

PLAN_ID = LifecyclePlanModel.__table__.c.plan_id


def in_a_process(act: Callable[[Engine], None], url: str) -> None:
    """
    Call *act* with an engine on the database, in a process of its own.

    What a backref adds to `LifecyclePlanModel` is there until the process ends. *act* is a function
    of a module, and calls `models`.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        process.submit(_call, act, url).result()


def _call(act: Callable[[Engine], None], url: str) -> None:
    engine = open_engine(url)
    try:
        act(engine)
    finally:
        engine.dispose()


class Base(DeclarativeBase):
    metadata = MetaData()


def models(engine: Engine) -> tuple[type, type, type]:
    """Give the models of orders, of their lines and of labels, and create their tables."""

    class Order(Base):
        __tablename__ = "orders"

        id: Mapped[int] = mapped_column(primary_key=True)
        number: Mapped[str] = mapped_column(String(50), unique=True)
        plan_id: Mapped[str] = mapped_column(ForeignKey(PLAN_ID))
        plan: Mapped[LifecyclePlanModel] = relationship(LifecyclePlanModel, backref="orders")

    class Line(Base):
        __tablename__ = "order_lines"

        id: Mapped[int] = mapped_column(primary_key=True)
        order_id: Mapped[int] = mapped_column(ForeignKey("orders.id", ondelete="CASCADE"))

    labelled = Table(
        "labelled_plans",
        Base.metadata,
        Column("label_id", ForeignKey("labels.id"), primary_key=True),
        Column("plan_id", ForeignKey(PLAN_ID), primary_key=True),
    )

    class Label(Base):
        __tablename__ = "labels"

        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str] = mapped_column(String(50), unique=True)
        plans: Mapped[list[LifecyclePlanModel]] = relationship(
            LifecyclePlanModel, secondary=labelled, backref=backref("labels")
        )

    LifecyclePlanModel.numbered_orders = relationship(Order, viewonly=True)
    configure_mappers()
    Base.metadata.create_all(engine)
    return Order, Line, Label
