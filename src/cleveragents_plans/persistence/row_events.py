"""What row objects do by themselves when they are changed and flushed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sqlalchemy import (
    PrimaryKeyConstraint,
    UniqueConstraint,
    and_,
    bindparam,
    delete,
    event,
    inspect,
    select,
    tuple_,
    update,
)
from sqlalchemy.orm import RelationshipProperty, Session
from sqlalchemy.orm.attributes import flag_modified, set_committed_value

from cleveragents_plans.domain import SnapshotIsFrozen, new_ulid
from cleveragents_plans.persistence import mapping, rollbacks
from cleveragents_plans.persistence.columns import time_text
from cleveragents_plans.persistence.types import NextVersion

#: That of each child table.
_PRIMARY_KEY: Final = ("plan_id", "position")
#: The last of all positions.
_LAST: Final = 2**31 - 1


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
    Delete child rows whose places others take, and let those that change places make room.

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
    lists = {
        row: inspect(row).attrs[relation.key].history for row in rows if relation.key in vars(row)
    }
    lists = {row: history for row, history in lists.items() if history.has_changes()}
    removed = [each for history in lists.values() for each in history.deleted if each in session]
    takers = {row: history.added for row, history in lists.items()}
    if removed:
        new = (each for each in session.new if isinstance(each, relation.parent.class_))
        takers |= {row: vars(row).get(relation.key, ()) for row in new}
    taken = [child for children in takers.values() for child in children]
    for row, children in takers.items():
        for child in children:
            child.plan_id = row.plan_id
    gone = {each for each in (*session.deleted, *removed) if isinstance(each, kind)}
    gone.difference_update(taken)
    # Or else those that a savepoint brings back are deleted by the next flush, as orphans.
    rollbacks.written(session, gone)
    moved = [
        each
        for each in session.dirty
        if isinstance(each, kind)
        and each not in gone
        and any(_changed(each, name) for name in unique)
    ]
    if not moved and not (gone and any(isinstance(each, kind) for each in session.new)):
        return set()
    _lock_plans(session, relation, (*moved, *gone))
    if gone:
        stored = delete(table).where(tuple_(*table.primary_key).in_({*map(_identity, gone)}))
        session.execute(stored, bind_arguments={"mapper": relation.mapper})
        rollbacks.deleted(session, gone)
    if moved:
        _make_room(session, relation, moved, [*unique])
    for row in lists:  # nothing is left to be done for them
        set_committed_value(row, relation.key, [*getattr(row, relation.key)])
    return {row.plan_id for row in lists}


def _identity(row: Any) -> Any:
    return inspect(row).identity


def _lock_plans(
    session: Session, relation: RelationshipProperty[Any], children: Iterable[Any]
) -> None:
    # The plans first, as every writer: or else two of them could wait for each other.
    plans = relation.parent.class_.__table__
    ids = {_identity(child)[0] for child in children}
    lock = select(plans.c.plan_id).where(plans.c.plan_id.in_(ids))
    lock = lock.order_by(plans.c.plan_id).with_for_update()
    session.execute(lock, bind_arguments={"mapper": relation.parent})


def _make_room(
    session: Session,
    relation: RelationshipProperty[Any],
    moved: Sequence[Any],
    unique: Sequence[str],
) -> None:
    """Give the stored rows of *moved* places that no other has, until the flush updates them."""
    table = relation.mapper.class_.__table__
    at = and_(table.c.plan_id == bindparam("of_plan"), table.c.position == bindparam("at"))
    texts = [name for name in unique if name not in _PRIMARY_KEY]
    for number, child in enumerate(moved):
        former = dict(zip(_PRIMARY_KEY, _identity(child), strict=True))
        spare: dict[str, Any] = {
            name: None if table.c[name].nullable else new_ulid() for name in texts
        }
        rekeyed = any(_changed(child, name) for name in _PRIMARY_KEY)
        if rekeyed:
            spare["position"] = _LAST - number
        changed = [name for name in inspect(child).committed_state if _changed(child, name)]
        wanted = {name: getattr(child, name) for name in {*spare, *changed}}
        if spare:
            room = update(table).where(at).values(spare)
            values = {"of_plan": former["plan_id"], "at": former["position"]}
            session.execute(room, values, bind_arguments={"mapper": relation.mapper})
        for name, value in (former | spare if rekeyed else spare).items():
            set_committed_value(child, name, value)
        if rekeyed:  # or else a new row seems to have its key
            rollbacks.rekeyed(session, child)
        for name, value in wanted.items():
            setattr(child, name, value)
        for name in {*changed} - {*spare, *_PRIMARY_KEY}:
            flag_modified(child, name)
