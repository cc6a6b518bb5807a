"""What row objects do by themselves when they are changed and flushed."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from sqlalchemy import (
    PrimaryKeyConstraint,
    UniqueConstraint,
    delete,
    event,
    inspect,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import RelationshipProperty, Session, make_transient
from sqlalchemy.orm.attributes import set_committed_value

from cleveragents_plans.domain import SnapshotIsFrozen
from cleveragents_plans.persistence import mapping
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.types import NextVersion


def listen_to(model: Any) -> None:
    """Keep the snapshots of *model*, and move its version with every change, of child rows too."""
    snapshot = model.effective_profile_snapshot
    event.listen(snapshot, "set", _keep_snapshot, active_history=True, propagate=True)
    event.listen(snapshot, "remove", _keep_snapshot_in_place, active_history=True, propagate=True)
    event.listen(model, "before_update", _move_version, propagate=True)
    # Of every session: row objects may be in any.
    event.listen(Session, "before_flush", lambda session, *_: _flush_children(session, model))


def _keep_snapshot(row: Any, new: str, old: Any, _initiator: object) -> None:
    # A snapshot is taken once: only a row that has none yet (old is one of SQLAlchemy's
    # symbols then) can be given one.
    if isinstance(old, str) and new != old:
        raise SnapshotIsFrozen(row.plan_id)


def _keep_snapshot_in_place(row: Any, old: Any, _initiator: object) -> None:
    # Or else one that was removed could be replaced.
    if isinstance(old, str):
        raise SnapshotIsFrozen(row.plan_id)


def _move_version(_mapper: object, _connection: object, row: Any) -> None:
    # A writer who leaves updated_at alone would not be seen by those who check it.
    # Only what was set can have changed; to ask every attribute takes as long as the flush.
    state = inspect(row)
    others = {*state.mapper.relationships.keys()}.difference(mapping.ChildRows._fields)
    changed = {name for name in state.committed_state if name not in others and _changed(row, name)}
    if changed and "updated_at" not in changed:
        row.updated_at = time_text(mapping.next_version(row.plan_id, row.updated_at))


def _changed(row: Any, name: str) -> bool:
    return bool(inspect(row).attrs[name].history.has_changes())


def _flush_children(session: Session, model: Any) -> None:
    """Let child rows change places, and move the version of each plan whose child rows change."""
    # The application may have added relationships to rows of its own, by a backref.
    relations = [model.__mapper__.relationships[name] for name in mapping.ChildRows._fields]
    kinds = tuple(relation.mapper.class_ for relation in relations)
    children = [each for each in (*session.new, *session.deleted) if isinstance(each, kinds)]
    children += [
        each for each in session.dirty if isinstance(each, kinds) and session.is_modified(each)
    ]
    rows = [each for each in session.dirty if isinstance(each, model)]
    # What belongs to a new plan is inserted with it; what has no plan_id yet is new in a list.
    changed = {each.plan_id for each in children if each.plan_id is not None}
    changed -= {each.plan_id for each in session.new if isinstance(each, model)}
    for relation in relations:
        changed |= _change_places(session, relation, rows)
    for plan_id in changed:
        held = rows_held(session, model, plan_id)
        if not held:
            table = model.__table__
            move = update(table).where(table.c.plan_id == plan_id)
            session.execute(move.values(updated_at=NextVersion()), bind_arguments={"mapper": model})
        elif not any(row in session.deleted or _changed(row, "updated_at") for row in held):
            held[0].updated_at = time_text(mapping.next_version(plan_id, held[0].updated_at))


def rows_held(session: Session, model: Any, plan_id: str) -> list[Any]:
    """Give the row objects of a plan in the session: of *model*, and of classes that inherit it."""
    # Without a discriminator, each class has identity keys of its own.
    mappers = model.__mapper__.self_and_descendants
    keys = dict.fromkeys(each.identity_key_from_primary_key((plan_id,)) for each in mappers)
    return [row for row in map(session.identity_map.get, keys) if row is not None]


def _change_places(
    session: Session, relation: RelationshipProperty[Any], rows: Sequence[Any]
) -> set[str]:
    """
    Delete child rows whose places others take, before the flush inserts or updates those.

    SQLAlchemy sends INSERT and UPDATE before DELETE, one by one, so that names, aliases and
    positions would come twice for a moment, which the UNIQUE constraints refuse.

    Returns:
        The ids of the plans whose lists are changed by it.
    """
    kind, table = relation.mapper.class_, relation.mapper.class_.__table__
    unique = {
        column.key
        for constraint in table.constraints
        if isinstance(constraint, (PrimaryKeyConstraint, UniqueConstraint))
        for column in constraint.columns
    }
    moved = [
        each
        for each in session.dirty
        if isinstance(each, kind) and any(_changed(each, name) for name in unique)
    ]
    lists = {
        row: inspect(row).attrs[relation.key].history for row in rows if relation.key in vars(row)
    }
    lists = {row: history for row, history in lists.items() if history.has_changes()}
    removed = (each for history in lists.values() for each in history.deleted)
    gone = {each for each in (*session.deleted, *removed) if isinstance(each, kind)}
    if not moved and not (gone and any(isinstance(each, kind) for each in session.new)):
        return set()
    for child in moved:
        for attribute in relation.mapper.column_attrs:
            getattr(child, attribute.key)  # reads what a commit expired
    _delete(session, relation, {inspect(each).identity for each in (*moved, *gone)})
    for child in gone:
        session.expunge(child)
    for child in moved:
        make_transient(child)
        session.add(child)
    for row in lists:
        # Nothing is left to be done for the list, but for its new rows.
        for child in getattr(row, relation.key):
            child.plan_id = row.plan_id
        set_committed_value(row, relation.key, [*getattr(row, relation.key)])
    return {row.plan_id for row in lists}


def _delete(session: Session, relation: RelationshipProperty[Any], keys: Set[Any]) -> None:
    plans, table = relation.parent.class_.__table__, relation.mapper.class_.__table__
    # The plans first, as every writer: or else two of them could wait for each other.
    lock = select(plans.c.plan_id).where(plans.c.plan_id.in_({key[0] for key in keys}))
    lock = lock.order_by(plans.c.plan_id).with_for_update()
    session.execute(lock, bind_arguments={"mapper": relation.parent})
    stored = delete(table).where(tuple_(*table.primary_key).in_(keys))
    session.execute(stored, bind_arguments={"mapper": relation.mapper})
