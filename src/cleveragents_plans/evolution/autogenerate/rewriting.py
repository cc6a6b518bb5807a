"""Rewrite what Alembic found into calls of our operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.autogenerate.rewriter import Rewriter
from alembic.operations import MigrateOperation, ops
from sqlalchemy import Column
from sqlalchemy.sql.elements import ClauseElement

from cleveragents_plans.evolution.autogenerate.calls import Call, Unsafe

# What PostgreSQL puts behind a literal.
_CAST = re.compile(r"(?<=')::[a-z ]+(\(\d+\))?$")

writer = Rewriter()

# A drop of what uses a column comes before the drop of the column, and what uses a new
# column after it.
_ORDER = (
    "",
    "create_table",
    "drop_index",
    "drop_constraint",
    "rename_column",
    "add_column",
    "set_default",
    "drop_default",
    "drop_not_null",
    "set_not_null",
    "add_check",
    "add_foreign_key",
    "create_index",
    "drop_column",
    "drop_tables",
)


@writer.rewrites(ops.UpgradeOps)
def _rewrite_upgrade(_context: Any, _revision: Any, found: ops.UpgradeOps) -> ops.UpgradeOps:
    return ops.UpgradeOps(_in_order(_rewritten(found.ops)), upgrade_token=found.upgrade_token)


@writer.rewrites(ops.DowngradeOps)
def _rewrite_downgrade(_context: Any, _revision: Any, found: ops.DowngradeOps) -> ops.DowngradeOps:
    return ops.DowngradeOps(_in_order(_rewritten(found.ops)), downgrade_token=found.downgrade_token)


def _in_order(written: Sequence[MigrateOperation]) -> list[MigrateOperation]:
    def place(operation: MigrateOperation) -> int:
        if isinstance(operation, ops.CreateTableOp):
            return _ORDER.index("create_table")
        return _ORDER.index(operation.function) if isinstance(operation, Call) else 0

    return sorted(written, key=place)


def _rewritten(found: Sequence[MigrateOperation]) -> list[MigrateOperation]:
    return [call for operation in found for call in _calls(operation)]


def _calls(operation: MigrateOperation) -> Iterator[MigrateOperation]:
    if isinstance(operation, ops.ModifyTableOps):
        yield from _renamed(operation)
        for inner in operation.ops:
            yield from _calls(inner)
    elif isinstance(operation, ops.CreateTableOp):
        # A run that was interrupted goes on behind it.
        operation.if_not_exists = True
        yield operation
    elif isinstance(operation, ops.DropTableOp):
        option = repr(f"drop-{operation.table_name}")
        yield _call("drop_tables", operation, confirm_option=option)
    elif isinstance(operation, ops.CreateIndexOp):
        yield _create_index(operation)
    elif isinstance(operation, ops.DropIndexOp):
        name = repr(str(operation.index_name))
        yield Call("drop_index", str(operation.table_name), name, *_place(operation))
    elif isinstance(operation, ops.AddColumnOp):
        yield from _add_column(operation)
    elif isinstance(operation, ops.DropColumnOp):
        yield _call("drop_column", operation, repr(operation.column_name))
    elif isinstance(operation, ops.AlterColumnOp):
        yield from _alter_column(operation)
    elif isinstance(operation, ops.CreateCheckConstraintOp):
        yield _add_check(operation)
    elif isinstance(operation, ops.CreateForeignKeyOp):
        yield _add_foreign_key(operation)
    elif isinstance(operation, ops.DropConstraintOp) and operation.constraint_type in _KINDS:
        yield _call("drop_constraint", operation, repr(str(operation.constraint_name)))
    else:
        kind = type(operation).__name__.removesuffix("Op")
        yield Unsafe(
            f"{getattr(operation, 'table_name', '')}: {kind} was found, for which there is no "
            "operation",
            "write this step by hand (for a UNIQUE, use a unique index in the model)",
        )


_KINDS = ("check", "foreignkey")


def _renamed(table: ops.ModifyTableOps) -> Iterator[MigrateOperation]:
    added = [each.column.name for each in table.ops if isinstance(each, ops.AddColumnOp)]
    dropped = [each.column_name for each in table.ops if isinstance(each, ops.DropColumnOp)]
    if added and dropped:
        yield Unsafe(
            f"{table.table_name} loses {', '.join(dropped)} and gets {', '.join(added)}",
            "if a column was renamed, replace its drop_column and add_column by "
            f"rename_column(op, {table.table_name!r}, {dropped[0]!r}, {added[0]!r}); if its values "
            "are to be kept, fill the new column by backfill; else delete this line",
        )


def _add_column(operation: ops.AddColumnOp) -> Iterator[MigrateOperation]:
    column: Column[Any] = operation.column
    _make_portable(column)
    table = operation.table_name
    if column.nullable or column.server_default is not None or column.computed is not None:
        yield _call("add_column", operation, _render_column(operation))
        return
    yield Unsafe(
        f"{table}.{column.name} is NOT NULL without a server_default, and rows that are there "
        "already need a value",
        f"write backfill(op, {table!r}, key=..., values={{{column.name!r}: ...}}) between its "
        "add_column and its set_not_null, and delete this line",
    )
    column.nullable = True
    yield _call("add_column", operation, _render_column(operation))
    yield _call("set_not_null", operation, repr(column.name))


def _make_portable(column: Column[Any]) -> None:
    """Write what was read from PostgreSQL so that SQLite understands it, too."""
    argument = getattr(column.server_default, "arg", None)
    if argument is not None and hasattr(argument, "text"):
        argument.text = _CAST.sub("", argument.text)


def _render_column(operation: ops.AddColumnOp) -> Callable[[AutogenContext], str]:
    def render(context: AutogenContext) -> str:
        text = str(renderers.dispatch(operation)(context, operation))
        end = f", schema={operation.schema!r})" if operation.schema else ")"
        return text[text.index("sa.Column(") :].removesuffix(end)

    return render


def _alter_column(operation: ops.AlterColumnOp) -> Iterator[MigrateOperation]:
    where = f"{operation.table_name}.{operation.column_name}"
    if operation.modify_type is not None:
        yield Unsafe(
            f"the type of {where} changes from {operation.existing_type!r} to "
            f"{operation.modify_type!r}, which may rewrite the table under ACCESS EXCLUSIVE",
            "add a column of the new type, fill it by backfill (and by a trigger while the former "
            "release writes the old one), and drop the old one in a later revision",
        )
    if operation.modify_server_default is None:
        yield _call("drop_default", operation, repr(operation.column_name))
    elif operation.modify_server_default is not False:
        yield _set_default(operation)
    if operation.modify_nullable is False:
        note = "The rows must have values by now: a backfill comes before it."
        yield _call("set_not_null", operation, repr(operation.column_name), note=note)
    elif operation.modify_nullable:
        yield _call("drop_not_null", operation, repr(operation.column_name))


def _set_default(operation: ops.AlterColumnOp) -> MigrateOperation:
    default = getattr(operation.modify_server_default, "arg", operation.modify_server_default)
    text = getattr(default, "text", None)
    if isinstance(default, str):
        text = "'" + default.replace("'", "''") + "'"
    if text is None:
        return Unsafe(
            f"the server_default of {operation.table_name}.{operation.column_name} becomes "
            f"{default}",
            "write set_default with what each engine calls it, Sql(postgresql=..., sqlite=...)",
        )
    return _call("set_default", operation, repr(operation.column_name), repr(_CAST.sub("", text)))


def _create_index(operation: ops.CreateIndexOp) -> MigrateOperation:
    name = str(operation.index_name)
    columns = []
    for column in operation.columns:
        if isinstance(column, (str, Column)):
            columns.append(repr(str(getattr(column, "name", column))))
        else:
            columns.append(f"sa.text({_sql(column)!r})")
    options = {"unique": "True"} if operation.unique else {}
    where = {_sql(operation.kw[key]) for key in _WHERE if operation.kw.get(key) is not None}
    if len(where) == 1:
        options["where"] = repr(where.pop())
    for key, value in operation.kw.items():
        if (key in _WHERE and "where" in options) or not value:
            continue
        if not isinstance(value, (str, int, list, tuple, dict)):
            return Unsafe(f"the index {name} has {key}={value}", "write its create_index by hand")
        options[key] = repr(value)
    table = str(operation.table_name)
    listed = f"[{', '.join(columns)}]"
    keywords = [f"{key}={value}" for key, value in options.items()]
    return Call(
        "create_index", table, repr(name), repr(table), listed, *keywords, *_schema(operation)
    )


_WHERE = ("postgresql_where", "sqlite_where")


def _add_check(operation: ops.CreateCheckConstraintOp) -> MigrateOperation:
    condition = operation.condition
    text = condition if isinstance(condition, str) else _sql(condition)
    if "::" in text:
        return Unsafe(
            f"the CHECK {operation.constraint_name} of {operation.table_name} is known as "
            f"PostgreSQL writes it: {text}",
            "write its add_check with the text that it was made with",
        )
    return _call("add_check", operation, repr(str(operation.constraint_name)), repr(text))


def _add_foreign_key(operation: ops.CreateForeignKeyOp) -> MigrateOperation:
    given = {key: value for key, value in operation.kw.items() if value is not None}
    schemas = {
        "schema": given.pop("source_schema", None),
        "referred_schema": given.pop("referent_schema", None),
    }
    actions = {key: given.pop(key, None) for key in ("ondelete", "onupdate")}
    name = operation.constraint_name
    if name is None or any(given.values()):
        return Unsafe(
            f"the foreign key {name} of {operation.source_table} has no name, or {given}",
            "give it a name, and write what else it has by hand",
        )
    keywords = [f"{k}={v!r}" for k, v in {**actions, **schemas}.items() if v is not None]
    return Call(
        "add_foreign_key",
        operation.source_table,
        repr(operation.source_table),
        repr(str(name)),
        repr(list(operation.local_cols)),
        repr(operation.referent_table),
        repr(list(operation.remote_cols)),
        *keywords,
    )


def _call(function: str, operation: Any, *arguments: Any, note: str = "", **keywords: str) -> Call:
    table = str(operation.table_name)
    named = [f"{key}={value}" for key, value in keywords.items()]
    return Call(function, table, repr(table), *arguments, *named, *_schema(operation), note=note)


def _place(operation: Any) -> list[str]:
    return [repr(str(operation.table_name)), *_schema(operation)]


def _schema(operation: Any) -> list[str]:
    return [f"schema={operation.schema!r}"] if operation.schema else []


def _sql(element: ClauseElement) -> str:
    options = {"include_table": False, "literal_binds": True}
    return str(element.compile(compile_kwargs=options))
