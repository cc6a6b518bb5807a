"""What autogenerate writes: calls of our operations, and what it does not write."""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from alembic.autogenerate import renderers
from alembic.autogenerate.api import AutogenContext
from alembic.operations import MigrateOperation

_PACKAGE = "cleveragents_plans.evolution"
_WIDTH = 94


class Call(MigrateOperation):
    """
    A call of one of our operations.

    Attributes:
        function: The operation.
        table: Its table.
        arguments: What follows ``op``: Python source, or what renders it.
        note: A comment above it.
    """

    def __init__(
        self,
        function: str,
        table: str,
        *arguments: str | Callable[[AutogenContext], str],
        note: str = "",
    ) -> None:
        self.function, self.table, self.arguments, self.note = function, table, arguments, note


class Unsafe(MigrateOperation):
    """A change that is not written, with what to do instead."""

    def __init__(self, found: str, remedy: str) -> None:
        self.text = f"{found}; {remedy}"


@renderers.dispatch_for(Call)
def _render_call(context: AutogenContext, call: Call) -> list[str]:
    _import(context, call.function)
    arguments = [each if isinstance(each, str) else each(context) for each in call.arguments]
    lines = [f"# {call.note}"] if call.note else []
    return [*lines, f"{call.function}({', '.join(['op', *arguments])})"]


@renderers.dispatch_for(Unsafe)
def _render_unsafe(_context: AutogenContext, change: Unsafe) -> list[str]:
    lines = textwrap.wrap(f"Not written: {change.text}.", _WIDTH)
    return [*(f"# {line}" for line in lines), 'raise NotImplementedError("write this step")']


def _import(context: AutogenContext, name: str) -> None:
    start = f"from {_PACKAGE} import "
    former = next((line for line in context.imports if line.startswith(start)), "")
    context.imports.discard(former)
    names = {name, *filter(None, former.removeprefix(start).split(", "))}
    context.imports.add(start + ", ".join(sorted(names)))
