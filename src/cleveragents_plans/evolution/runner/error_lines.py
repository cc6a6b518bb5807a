"""Every error of a run as one line that says what was found, and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from alembic.script import ScriptDirectory
from alembic.script.revision import RangeNotAncestorError, ResolutionError
from alembic.util import CommandError
from sqlalchemy.exc import DBAPIError, NoSuchTableError

from cleveragents_plans.evolution.errors import EvolutionError, again
from cleveragents_plans.evolution.printable import shortened
from cleveragents_plans.evolution.runner.alembic_internals import is_version_changed
from cleveragents_plans.evolution.runner.connection_errors import (
    NotADatabase,
    report_connection_lost,
)
from cleveragents_plans.evolution.runner.statement_errors import StatementFailed
from cleveragents_plans.evolution.sqlite.soundness import FileDamaged, is_damage
from cleveragents_plans.evolution.sqlite.transaction import FileNotReadable

# Characters of what Alembic says, in which the text stands that was taken for a revision.
_MAX_SAID = 300


class OutOfMemory(EvolutionError):
    """The process got no more memory; the transaction was rolled back."""

    def __init__(self, target: str) -> None:
        super().__init__(
            f"{target}: this process ran out of memory, perhaps because of a very large value in "
            f"the database; give it more memory, and {again()}"
        )


class TableDropped(EvolutionError):
    """Another session dropped or renamed a table while its columns or indexes were looked at."""

    def __init__(self, target: str, table: str) -> None:
        super().__init__(
            f"{target}: another session dropped or renamed {table} while it was looked at; "
            f"{again()}"
        )


class NameNotReadable(EvolutionError):
    """The server sent a name that is no UTF-8: of a column in SQL_ASCII, or of a role."""

    def __init__(self, target: str, found: bytes) -> None:
        super().__init__(
            f"{target} has a name with bytes that are no UTF-8 ({found[:100]!r}): that of a "
            "column, or of a role that was named in a database of another encoding; rename it "
            f"there (ALTER TABLE ... RENAME COLUMN, ALTER ROLE ... RENAME TO), and {again()}"
        )


class VersionChanged(EvolutionError):
    """The stored version was not the expected one when a revision had run."""

    def __init__(self, target: str) -> None:
        why = (
            # The run holds the write lock, so no other connection has changed it.
            "SQLite did not tell how many rows were changed, as after PRAGMA count_changes = ON: "
            "leave that out of what configures the connection"
            if target.startswith("sqlite")
            else "another session changed it, as a logical subscription does whose publication has "
            "the version table (FOR ALL TABLES): leave that table out of it"
        )
        super().__init__(
            f"{target}: the stored version was not the expected one after a revision had run, so "
            f"the last step was rolled back; {why}, and {again()}"
        )


@contextmanager
def in_one_line(target: str, script: ScriptDirectory | None = None) -> Iterator[None]:
    """
    Turn what the database or Alembic raises into one line.

    Args:
        target: What to call the database.
        script: The chain, outside of a run of Alembic's.

    Raises:
        ConnectionFailed: The connection was lost.
        FileDamaged: The bytes of a file of SQLite are not what SQLite wrote.
        FileNotReadable: This process may not read a file of SQLite.
        NameNotReadable: A column, or the owner of a table, has a name that is no UTF-8.
        NotADatabase: The file is none.
        OutOfMemory: The process got no more memory.
        StatementFailed: The database refused a statement.
        TableDropped: A table was dropped while it was looked at.
        VersionChanged: The stored version was not the expected one when a revision had run.
        EvolutionError: The chain has no such revision, or not in that direction.
    """
    with report_connection_lost(target):
        try:
            yield
        except (DBAPIError, sqlite3.Error) as raised:
            error = raised if isinstance(raised, DBAPIError) else _by_driver(raised)
            if error.connection_invalidated:
                raise
            if "not a database" in str(error.orig):  # SQLite looks into the file late
                raise NotADatabase(target, str(error.orig)) from error
            if is_damage(error.orig):
                raise FileDamaged(target, str(error.orig)) from error
            if getattr(error.orig, "sqlite_errorcode", None) in FileNotReadable.CODES:
                raise FileNotReadable(target, str(error.orig)) from error
            raise StatementFailed(target, error) from error
        except NoSuchTableError as error:  # SQLAlchemy reads a table with several statements
            raise TableDropped(target, str(error)) from error
        except UnicodeDecodeError as error:  # of the driver, which SQLAlchemy passes on
            raise NameNotReadable(target, error.object) from error
        except MemoryError as error:
            raise OutOfMemory(target) from error
        except CommandError as error:
            if is_version_changed(error):
                raise VersionChanged(target) from error
            if isinstance(error.__cause__, RangeNotAncestorError):
                raise EvolutionError(
                    f"{error}; an upgrade leads to a later revision, a downgrade to an earlier one "
                    "(`cleveragents-plans status` shows where the database is); nothing was changed"
                ) from None
            if not isinstance(error.__cause__, ResolutionError):
                raise
            chain = script or context.script
            known = ", ".join(each.revision for each in chain.walk_revisions())
            head = "head" if len(chain.get_heads()) == 1 else "heads"
            said = shortened(str(error), _MAX_SAID)
            raise EvolutionError(f"{said}; known: {known}, {head} and base") from None


def _by_driver(error: sqlite3.Error) -> DBAPIError:
    """Give *error*, of a statement that the driver ran by itself, as SQLAlchemy would."""
    wrapped = DBAPIError("a statement", None, error)
    wrapped.__cause__ = error
    return wrapped
