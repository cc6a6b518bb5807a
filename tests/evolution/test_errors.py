"""What goes wrong is told in one line that says what to do, and tells no secret."""

from __future__ import annotations

import pytest
from alembic.util import CommandError
from sqlalchemy import create_engine
from sqlalchemy.exc import DBAPIError, OperationalError, PendingRollbackError

from cleveragents_plans.evolution.errors import causes, sqlstate
from cleveragents_plans.evolution.postgresql.blockers import Blocker
from cleveragents_plans.evolution.postgresql.locks import LockNotObtained
from cleveragents_plans.evolution.postgresql.stuck_backfills import BackfillStuck
from cleveragents_plans.evolution.runner.connection_errors import (
    ConnectionFailed,
    report_connection_failed,
    report_connection_lost,
)
from cleveragents_plans.evolution.runner.migration_lock import MigrationLockNotObtained

IDLE = Blocker(12, "AccessShareLock", "idle in transaction", "shop", 61.2, "SELECT 1")


def lost(message="server closed the connection\nunexpectedly"):
    return OperationalError("SELECT 1", {}, Exception(message), connection_invalidated=True)


def test_lock_error_names_the_blockers():
    error = LockNotObtained("toy", 600.4, [IDLE])

    assert isinstance(error, CommandError)
    assert "no lock on toy in 600 s" in str(error)
    assert "pid 12 shop (idle in transaction for 61 s, AccessShareLock): SELECT 1" in str(error)
    assert error.blockers == (IDLE,)


def test_causes_of_an_error_that_was_raised_from_itself_end():
    first, last = ValueError(), KeyError()
    first.__cause__, last.__cause__ = first, first

    assert [*causes(last)] == [last, first]


def test_error_without_visible_blockers_says_so():
    assert "none that can be seen now" in str(LockNotObtained("toy", 1, []))
    assert "none that can be seen now" in str(MigrationLockNotObtained("the lock", 1))


def test_rows_that_are_left_are_named():
    error = BackfillStuck("toy", 7, ["a", "b"], 600, [IDLE])

    assert "7 rows of toy" in str(error)
    assert "a, b" in str(error)
    assert "end the sessions that lock the rows, and run the same" in str(error)
    assert "trigger" not in str(error)


def test_a_session_that_we_may_not_see_is_shown_as_far_as_we_see_it():
    hidden = Blocker(12, "AccessShareLock", None, None, None, None)

    assert str(hidden) == "pid 12 (state hidden, AccessShareLock)"


def test_a_prepared_transaction_is_shown_with_the_way_to_end_it():
    prepared = Blocker(None, "AccessShareLock", None, None, 3.0, "transfer")

    assert str(prepared) == "prepared transaction for 3 s: transfer (end it with ROLLBACK PREPARED)"


def test_a_lost_connection_is_one_line():
    with pytest.raises(ConnectionFailed) as told, report_connection_lost("shop at db1"):
        raise lost()

    assert str(told.value).startswith(
        "the connection to shop at db1 was lost (server closed the connection unexpectedly)"
    )
    assert told.value.target == "shop at db1"


def test_a_connection_lost_under_a_clean_up_that_fails_is_found():
    def clean_up_in_vain():
        try:
            raise lost()
        finally:
            raise PendingRollbackError("Can't reconnect")

    with pytest.raises(ConnectionFailed, match="was lost"), report_connection_lost():
        clean_up_in_vain()


def test_a_lost_connection_without_words_has_a_reason_too():
    with pytest.raises(ConnectionFailed, match=r"was lost \(Exception\)"), report_connection_lost():
        raise lost("")


@pytest.mark.parametrize(
    "message",
    [
        "bad option in password=secret host=x",
        "bad option in password = 'secret' host=x",
        "cannot read postgresql://me:secret@host/db",
        "cannot read postgresql://me:sec@secret@host/db",
    ],
)
def test_a_password_is_never_shown(message):
    with pytest.raises(ConnectionFailed) as told, report_connection_failed("the server"):
        raise OperationalError(None, None, Exception(message))

    assert "secret" not in str(told.value)
    assert "***" in str(told.value)


def test_a_database_that_cannot_be_opened_is_one_line():
    engine = create_engine("sqlite:////nowhere/at/all.db")

    with (
        pytest.raises(ConnectionFailed, match="unable to open") as told,
        report_connection_failed("the file"),
    ):
        engine.connect()

    assert str(told.value).startswith("the file cannot be opened")


def test_other_errors_pass():
    engine = create_engine("sqlite://")
    with pytest.raises(ZeroDivisionError), report_connection_lost():
        raise ZeroDivisionError
    with (
        engine.connect() as connection,
        pytest.raises(DBAPIError) as passed,
        report_connection_lost(),
    ):
        connection.exec_driver_sql("SELECT no_such_column")
    engine.dispose()

    assert sqlstate(passed.value) is None


def test_refusal_with_a_reason_is_passed_on():
    refused = LockNotObtained("toy", 1, [])

    def refuse():
        try:
            raise lost()
        except OperationalError:
            raise refused from None

    with pytest.raises(LockNotObtained), report_connection_lost():
        refuse()
