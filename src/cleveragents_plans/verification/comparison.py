"""The tables that are there, against those that the chain makes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from cleveragents_plans.evolution.postgresql.search_path import SYSTEM_SCHEMAS
from cleveragents_plans.evolution.printable import identifier
from cleveragents_plans.verification.findings import Finding, Kind, fault, note
from cleveragents_plans.verification.tables import Column, Constraint, Index, Table

_OTHERS = "its rows stay as they are; a later revision leaves it alone"


def compare_tables(
    expected: Mapping[str, Table], found: Mapping[str, Table], schema: str | None
) -> Iterator[Finding]:
    """
    Find what differs between the tables that are *expected* and those that were *found*.

    They are in *schema* on PostgreSQL; None on SQLite.
    """
    for name, table in expected.items():
        if name not in found:
            yield fault(
                Kind.TABLE_MISSING,
                name,
                "the table is not there, and its rows are lost",
                "restore it from a backup, or create it as docs/specification.md has it",
            )
            continue
        yield from _compare_columns(table, found[name])
        yield from _compare_constraints(table, found[name], schema)
        yield from _compare_indexes(table, found[name], schema)


def _compare_columns(expected: Table, found: Table) -> Iterator[Finding]:
    for name, column in expected.columns.items():
        subject = f"{expected.name}.{name}"
        if name not in found.columns:
            yield fault(
                Kind.COLUMN_MISSING,
                subject,
                f"the column is not there; expected {_described(column)}",
                f"ALTER TABLE {expected.name} ADD COLUMN {name} …, and restore what it held",
            )
        else:
            yield from _compare_column(subject, column, found.columns[name])
    for name in found.columns.keys() - expected.columns.keys():
        column, subject = found.columns[name], f"{expected.name}.{name}"
        if column.nullable or column.default is not None:
            yield note(Kind.COLUMN_EXTRA, subject, "no revision made this column", _OTHERS)
        else:
            yield fault(
                Kind.COLUMN_EXTRA,
                subject,
                "no revision made this column, and it is NOT NULL without a default: plans of "
                "this release cannot be stored",
                f"give {subject} a default, or let it be NULL",
            )


def _described(column: Column) -> str:
    length = f"({column.length})" if column.length else ""
    default = "" if column.default is None else f" DEFAULT {column.default}"
    return f"{column.type}{length}{default}{'' if column.nullable else ' NOT NULL'}"


def _compare_column(subject: str, expected: Column, found: Column) -> Iterator[Finding]:
    table, _, name = subject.partition(".")
    alter = f"ALTER TABLE {table} ALTER COLUMN {name}"
    too_short = found.length is not None and found.length < (expected.length or found.length + 1)
    if found.type != expected.type or too_short:
        yield fault(
            Kind.COLUMN_TYPE,
            subject,
            f"the type is {_described(found)}; expected {_described(expected)}",
            f"{alter} TYPE …, as docs/specification.md has it",
        )
    if found.nullable and not expected.nullable:
        yield fault(
            Kind.COLUMN_NULL,
            subject,
            "it may be NULL; expected NOT NULL",
            f"fill in what is NULL, then {alter} SET NOT NULL (SQLite: rebuild the table)",
        )
    if expected.nullable and not found.nullable:
        yield fault(
            Kind.COLUMN_NULL,
            subject,
            "it is NOT NULL, and plans without a value cannot be stored; expected NULL",
            f"{alter} DROP NOT NULL (SQLite: rebuild the table)",
        )
    if found.default != expected.default:
        wanted = "none" if expected.default is None else expected.default
        present = "none" if found.default is None else found.default
        change = "DROP DEFAULT" if expected.default is None else f"SET DEFAULT {wanted}"
        yield fault(
            Kind.COLUMN_DEFAULT,
            subject,
            f"the default is {present}; expected {wanted}",
            f"{alter} {change} (SQLite: rebuild the table)",
        )


def _compare_constraints(expected: Table, found: Table, schema: str | None) -> Iterator[Finding]:
    unmatched: list[Constraint] = list(found.constraints)
    missing = []
    for wanted in expected.constraints:
        equal = _first(unmatched, wanted, lambda a, b: a.definition == b.definition)
        if equal is None:
            missing.append(wanted)
            continue
        unmatched.remove(equal)
        yield from _compare_names(expected.name, wanted, equal, schema is not None)
    for wanted in missing:
        # What has its name, or is another of the kind on the same columns.
        changed = _first(unmatched, wanted, lambda a, b: a.name == b.name) or _first(
            unmatched, wanted, lambda a, b: b.kind == "FOREIGN KEY" and _columns(a) == _columns(b)
        )
        if changed is not None:
            unmatched.remove(changed)
        yield _missing_or_changed(expected.name, wanted, changed, schema)
    for extra in unmatched:
        subject = f"{expected.name}.{extra.name or 'a constraint without a name'}"
        yield note(
            Kind.CHECK_EXTRA if extra.kind == "CHECK" else Kind.CONSTRAINT_EXTRA,
            subject,
            f"no revision made this {_said(extra)}",
            _OTHERS,
        )
        if not extra.valid:
            yield _not_valid(expected.name, extra)


def _first(among: Sequence[Constraint], wanted: Constraint, alike: object) -> Constraint | None:
    matches = [each for each in among if each.kind == wanted.kind and alike(each, wanted)]  # type: ignore[operator]
    return next((each for each in matches if each.name == wanted.name), next(iter(matches), None))


def _columns(constraint: Constraint) -> str:
    return constraint.definition.partition(" REFERENCES")[0]


def _said(constraint: Constraint) -> str:
    shown = constraint.definition
    return (
        f"{constraint.kind} ({shown})"
        if constraint.kind == "CHECK"
        else (f"{constraint.kind} {shown}")
    )


def _compare_names(
    table: str, wanted: Constraint, found: Constraint, on_postgresql: bool
) -> Iterator[Finding]:
    if found.name != wanted.name:
        subject = f"{table}.{wanted.name}"
        called = found.name or "without a name"
        if found.name and on_postgresql:
            remedy = (
                f"ALTER TABLE {table} RENAME CONSTRAINT {identifier(found.name)} TO {wanted.name}"
            )
        else:
            remedy = (
                "nothing fails by it; a later revision that changes it by its name will say "
                "that it is not there"
            )
        found_name = f"the {wanted.kind} is called {called}"
        if wanted.kind == "CHECK":
            yield fault(Kind.CHECK_RENAMED, subject, found_name, remedy)
        else:
            yield note(Kind.CONSTRAINT_RENAMED, subject, found_name, remedy)
    if not found.valid:
        yield _not_valid(table, found)


def _not_valid(table: str, constraint: Constraint) -> Finding:
    return fault(
        Kind.NOT_VALID,
        f"{table}.{constraint.name}",
        f"the {constraint.kind} is NOT VALID: rows may break it",
        f"mend the rows that break it, then ALTER TABLE {table} VALIDATE CONSTRAINT "
        f"{identifier(constraint.name or '')}",
    )


def _missing_or_changed(
    table: str, wanted: Constraint, found: Constraint | None, schema: str | None
) -> Finding:
    check = wanted.kind == "CHECK"
    subject = f"{table}.{wanted.name}"
    alter = f"ALTER TABLE {_in(schema, table)}"
    definition = _said(wanted).replace(" REFERENCES ", f" REFERENCES {_in(schema, '')}")
    add = f"{alter} ADD CONSTRAINT {wanted.name} {definition}"
    add = _in_system_schemas(add, schema) if check else add
    if found is None:
        return fault(
            Kind.CHECK_MISSING if check else Kind.CONSTRAINT_MISSING,
            subject,
            f"the {_said(wanted)} is not there",
            f"{add} (SQLite: rebuild the table)",
        )
    return fault(
        Kind.CHECK_CHANGED if check else Kind.CONSTRAINT_CHANGED,
        subject,
        f"it is {_said(found)}; expected {_said(wanted)}",
        f"{alter} DROP CONSTRAINT {identifier(found.name or '')}, then {add} (SQLite: "
        "rebuild the table)",
    )


def _in(schema: str | None, name: str) -> str:
    return name if schema is None else f"{identifier(schema)}.{name}"


def _in_system_schemas(statement: str, schema: str | None) -> str:
    """Let an expression call no operator of another role, also where *statement* is typed."""
    if schema is None:
        return statement
    return f"SET search_path = {SYSTEM_SCHEMAS}; {statement}; RESET search_path"


_BY_ITSELF = " (each statement by itself: several in one psql -c are a transaction)"


def _compare_indexes(expected: Table, found: Table, schema: str | None) -> Iterator[Finding]:
    unmatched: dict[str, Index] = {index.name: index for index in found.indexes}
    # Beside other clients, so in no transaction.
    beside, by_itself = ("", "") if schema is None else (" CONCURRENTLY", _BY_ITSELF)
    for wanted in expected.indexes:
        subject = f"{expected.name}.{wanted.name}"
        on = f"{_in(schema, expected.name)} {wanted.definition}"
        create = _in_system_schemas(f"CREATE INDEX{beside} {wanted.name} ON {on}", schema)
        same = unmatched.pop(wanted.name, None)
        equal = [each for each in unmatched.values() if each.definition == wanted.definition]
        if same is not None and same.definition != wanted.definition:
            yield fault(
                Kind.INDEX_CHANGED,
                subject,
                f"it is on {same.definition}; expected {wanted.definition}",
                f"DROP INDEX{beside} {_in(schema, wanted.name)}, then {create}{by_itself}",
            )
        elif same is None and equal:
            same = unmatched.pop(equal[0].name)
            yield note(
                Kind.INDEX_RENAMED,
                subject,
                f"an equal index is called {same.name}",
                f"nothing fails by it; ALTER INDEX {identifier(same.name)} RENAME TO {wanted.name}",
            )
        elif same is None:
            yield fault(
                Kind.INDEX_MISSING,
                subject,
                f"the index on {wanted.definition} is not there: what it serves reads the whole "
                "table",
                f"{create}{by_itself}",
            )
        if same is not None and not same.valid:
            yield _invalid(expected.name, same)
    for index in unmatched.values():
        subject = f"{expected.name}.{index.name}"
        if not _is_of_reindex(index):
            made = f"no revision made this index on {index.definition}"
            yield note(Kind.INDEX_EXTRA, subject, made)
        if not index.valid:
            yield _invalid(expected.name, index)


# PostgreSQL gives such names for the time of REINDEX CONCURRENTLY.
# https://www.postgresql.org/docs/current/sql-reindex.html#SQL-REINDEX-CONCURRENTLY
_REINDEX = re.compile(r"_cc(new|old)[0-9]*$")


def _is_of_reindex(index: Index) -> bool:
    return not index.valid and bool(_REINDEX.search(index.name))


def _invalid(table: str, index: Index) -> Finding:
    name, subject = identifier(index.name), f"{table}.{index.name}"
    if index.pid is not None:
        return note(
            Kind.INDEX_INVALID,
            subject,
            f"the index is not valid yet, or not any more: the process {index.pid} is building or "
            "dropping it, and no query uses it",
        )
    if _is_of_reindex(index):
        return fault(
            Kind.INDEX_INVALID,
            subject,
            "the index is INVALID: an interrupted REINDEX CONCURRENTLY left it, each write "
            "maintains it, and no query uses it",
            f"DROP INDEX CONCURRENTLY {name}",
        )
    return fault(
        Kind.INDEX_INVALID,
        subject,
        "the index is INVALID: it was not built to its end, and no query uses it",
        f"REINDEX INDEX CONCURRENTLY {name}",
    )
