"""
Let ``alembic revision --autogenerate`` write the operations of this package.

Alembic compares the models with a database and would write operations that block a table
in use. Each is rewritten into a call of ours, in an order that can be run; what cannot be
done safely becomes a ``raise`` that says what to do, in the file and on standard error
(https://alembic.sqlalchemy.org/en/latest/api/autogenerate.html).
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation, ops
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import inspect
from sqlalchemy.sql.elements import False_, True_
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from cleveragents_plans.evolution.autogenerate.calls import Call, Unsafe
from cleveragents_plans.evolution.autogenerate.revision_files import is_hash, locks, readable_name
from cleveragents_plans.evolution.autogenerate.rewriting import writer

log = logging.getLogger("alembic.evolution")

# From Alembic 1.20 on; before it, no CHECK is compared.
_CHECKS = "alembic.ext.checkconstraint_byname"


def configuration(tables: Collection[str]) -> dict[str, Any]:
    """
    Give the arguments of ``context.configure()`` that let autogenerate write our operations.

    Args:
        tables: The tables of the models; others in the database belong to other packages.
    """

    def write(context: MigrationContext, revision: Any, scripts: list[ops.MigrationScript]) -> None:
        _write(context, revision, scripts, tables)

    options: dict[str, Any] = {"process_revision_directives": write, "render_item": _render_item}
    if _compares_checks():
        options["autogenerate_plugins"] = ["alembic.autogenerate.*", _CHECKS]
    return options


def _compares_checks() -> bool:
    return find_spec("alembic.ext") is not None and find_spec(_CHECKS) is not None


def _write(
    context: MigrationContext,
    revision: Any,
    scripts: list[ops.MigrationScript],
    tables: Collection[str],
) -> None:
    if context.opts["revision_context"].command_args["autogenerate"]:
        writer(context, revision, scripts)
        (script,) = scripts
        up, down = script.upgrade_ops, script.downgrade_ops
        assert up is not None and down is not None  # noqa: PT018, S101  # Alembic filled them in
        up.ops[:0] = _forgotten_tables(context, tables)
        if up.is_empty():
            log.warning("the models describe the database as it is; no revision was written")
            scripts.clear()
            return
        both = [*up.ops, *down.ops]
        for text in dict.fromkeys(each.text for each in both if isinstance(each, Unsafe)):
            log.warning("not written: %s", text)
        calls = [(each.function, each.table) for each in both if isinstance(each, Call)]
        context.opts["template_args"]["locks"] = locks(calls)
        if not _compares_checks():
            log.warning("this version of Alembic compares no CHECK; write add_check by hand")
    for script in scripts:
        before = _before(_chain(context), script.head)
        # In a branch of an application the ids may be Alembic's.
        if is_hash(script.rev_id) and before is not None and not any(map(is_hash, before)):
            script.rev_id = readable_name(_chain(context), script.message, before)


def _before(chain: ScriptDirectory, head: str | None) -> list[str] | None:
    """Name the revisions that come before a new one; None if Alembic will refuse *head*."""
    try:
        found = chain.get_revisions(head or "head")
    except CommandError:
        return None
    return [each.revision for each in found if each is not None]


def _forgotten_tables(
    context: MigrationContext, tables: Collection[str]
) -> Iterator[MigrateOperation]:
    """Find tables that a revision of the chain created and no model describes any more."""
    texts = [Path(each.path).read_text() for each in _chain(context).walk_revisions()]
    for table in inspect(context.connection).get_table_names():
        if table not in tables and any(
            f'create_table(\n        "{table}"' in each for each in texts
        ):
            yield Unsafe(
                f"the table {table} has no model any more",
                f"when no process uses it, write drop_tables(op, {table!r}, "
                f"confirm_option='drop-{table}'), which refuses to drop rows unasked",
            )


def _chain(context: MigrationContext) -> ScriptDirectory:
    assert context.script is not None  # noqa: S101  # a command of Alembic has one
    return context.script


def _render_item(kind: str, item: Any, _context: AutogenContext) -> str | Literal[False]:
    # A revision imports no model: the type that is stored, not the one that reads it.
    if kind == "type" and isinstance(item, TypeDecorator):
        return f"sa.{item.impl_instance!r}"
    # Alembic would write what the database at hand calls it.
    default = getattr(item, "arg", None) if kind == "server_default" else None
    if isinstance(default, (False_, True_)):
        return f"sa.{default}()"
    if isinstance(default, FunctionElement) and not list(default.clauses):
        return f"sa.func.{default.name}()"
    return False
