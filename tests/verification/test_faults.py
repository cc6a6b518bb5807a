"""Each kind of fault is planted in a good database, and found by its name, with what mends it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from cleveragents_plans.evolution import EvolutionError
from cleveragents_plans.evolution.sqlite.create_table import CreateTable
from cleveragents_plans.evolution.sqlite.items import DdlNotUnderstood
from cleveragents_plans.schema import chain_config
from cleveragents_plans.schema.database import read_database
from cleveragents_plans.verification import Kind, Verification, sqlite_tables, verify
from cleveragents_plans.verification.expected import expected_tables
from support.broken import A, B, C, D, E, break_database, libpq, store_family
from support.databases import ENGINES, ONE_OF_EACH, database_at, database_with, roll_back
from support.revisions import CHAIN, HEAD, M4_003, M8_001, M8_002
from support.waiting import wait_until

SQLITE, POSTGRESQL = ONE_OF_EACH


def looked_at(url: str, **options: object) -> Verification:
    with read_database(chain_config(url), "verify") as database:
        return verify(database, **options)  # type: ignore[arg-type]


class Fault(NamedTuple):
    kind: Kind
    #: Of which object, and in which plans.
    subject: str
    plans: tuple[str, ...]
    #: What the remedy says, among other things.
    remedy: str
    #: What plants it.
    on_sqlite: tuple[str, ...] = ()
    on_postgresql: tuple[str, ...] = ()
    severity: str = "fault"


def both(*statements: str) -> dict[str, tuple[str, ...]]:
    return {"on_sqlite": statements, "on_postgresql": statements}


def in_text(former: str, new: str, table: str = "v3_plans") -> tuple[str, ...]:
    """Change the text that created a table of SQLite."""
    former, new = former.replace("'", "''"), new.replace("'", "''")
    return (
        f"UPDATE sqlite_schema SET sql = replace(sql, '{former}', '{new}') "
        f"WHERE name = '{table}' AND sql LIKE '%{former}%'",
    )


def column(name: str, value: str, plan: str) -> dict[str, tuple[str, ...]]:
    return both(f"UPDATE v3_plans SET {name} = {value} WHERE plan_id = '{plan}'")


ROOT, PARENT = "v3_plans.root_plan_id", "v3_plans.parent_plan_id"
REPAIR = "verify --repair roots"
FUNCTION = "v3_plans_fill()"
RECREATE = "create the trigger and its function again"

MALLORY = "DO $$ BEGIN CREATE ROLE mallory; EXCEPTION WHEN duplicate_object THEN NULL; END $$"

ROWS = [
    Fault(Kind.ROOT_OWN, ROOT, (B,), REPAIR, **column("root_plan_id", f"'{B}'", B)),
    Fault(Kind.ROOT_OF_ANOTHER_TREE, ROOT, (C,), REPAIR, **column("root_plan_id", f"'{D}'", C)),
    Fault(Kind.ROOT_IS_NO_ROOT, ROOT, (E,), REPAIR, **column("root_plan_id", f"'{C}'", E)),
    Fault(Kind.ROOT_NOT_STORED, ROOT, (E,), REPAIR, **column("root_plan_id", f"'{'7' * 26}'", E)),
    Fault(
        Kind.ROOT_NULL, ROOT, (D,), REPAIR,
        ("DROP INDEX ix_v3_plans_root_plan_id", *in_text("root_plan_id VARCHAR(26) NOT NULL",
         "root_plan_id VARCHAR(26)"), "PRAGMA schema_version = 999",
         f"UPDATE v3_plans SET root_plan_id = NULL WHERE plan_id = '{D}'"),
        ("ALTER TABLE v3_plans ALTER root_plan_id DROP NOT NULL",
         "ALTER TABLE v3_plans DISABLE TRIGGER v3_plans_fill",
         f"UPDATE v3_plans SET root_plan_id = NULL WHERE plan_id = '{D}'",
         "ALTER TABLE v3_plans ENABLE ALWAYS TRIGGER v3_plans_fill"),
    ),
    Fault(
        Kind.PARENT_NOT_STORED, PARENT, (E,), "parent_plan_id = NULL WHERE plan_id ",
        **column("parent_plan_id", f"'{'7' * 26}'", E),
    ),
    Fault(
        Kind.CYCLE, PARENT, (A,), "parent_plan_id = NULL WHERE plan_id ",
        **column("parent_plan_id", f"'{C}'", A),
    ),
    Fault(
        Kind.PLAN_NOT_STORED, "plan_projects", ("7" * 26,), "plan_projects WHERE plan_id ",
        **both("INSERT INTO plan_projects (plan_id, position, project_name) "
               f"VALUES ('{'7' * 26}', 0, 'local/api')"),
    ),
    *(
        Fault(
            Kind.UNREADABLE, f"v3_plans.{name}", (A,), "correct it",
            **column(name, value, A),
        )
        for name, value in (
            ("automation_profile", "'{'"), ("updated_at", "'yesterday'"), ("tags_json", "'[1]'"),
            ("error_details_json", "'[]'"),
        )
    ),
    Fault(
        Kind.SNAPSHOT_UNREADABLE, "v3_plans.effective_profile_snapshot", (A, B), "restore it",
        **both("UPDATE v3_plans SET effective_profile_snapshot = '{\"name\":1}' "
               f"WHERE plan_id IN ('{A}', '{B}')"),
    ),
    Fault(
        Kind.UNREADABLE, "plan_arguments.value_json", (A,), "correct it",
        **both(f"UPDATE plan_arguments SET value_json = 'x' WHERE plan_id = '{A}'"),
    ),
]  # fmt: skip

M8_002_INDEXES = sorted(
    index.name
    for name, table in expected_tables(M8_002).items()
    for index in {*table.indexes} - {*expected_tables(M8_001)[name].indexes}
)
CHECK = "v3_plans.ck_v3_plans_attempt"
TEXT = "CONSTRAINT ck_v3_plans_attempt CHECK (attempt >= 1)"
DROP_CHECK = "ALTER TABLE v3_plans DROP CONSTRAINT ck_v3_plans_attempt"
SCHEMA = [
    Fault(
        Kind.CHECK_MISSING, CHECK, (), "ADD CONSTRAINT ck_v3_plans_attempt CHECK (attempt >= 1)",
        in_text(f"{TEXT}, ", ""), (DROP_CHECK,),
    ),
    Fault(
        Kind.CHECK_RENAMED, CHECK, (), "",
        in_text("ck_v3_plans_attempt", "ck_attempt"),
        ("ALTER TABLE v3_plans RENAME CONSTRAINT ck_v3_plans_attempt TO ck_attempt",),
    ),
    Fault(
        Kind.CHECK_CHANGED, CHECK, (), "ADD CONSTRAINT ck_v3_plans_attempt CHECK",
        in_text("attempt >= 1", "attempt >= 0"),
        (DROP_CHECK, f"ALTER TABLE v3_plans ADD {TEXT.replace('1)', '0)')}"),
    ),
    Fault(
        Kind.CHECK_CHANGED, "v3_plans.ck_v3_plans_phase", (), "ADD CONSTRAINT",
        in_text("'execute', 'apply'", "'execute'"),
        ("ALTER TABLE v3_plans DROP CONSTRAINT ck_v3_plans_phase, ADD CONSTRAINT "
         "ck_v3_plans_phase CHECK (phase IN ('action', 'strategize', 'execute'))",),
    ),
    Fault(
        Kind.CHECK_EXTRA, "v3_plans.ck_mine", (), "leaves it alone",
        in_text(TEXT, f"{TEXT}, CONSTRAINT ck_mine CHECK (attempt < 9)"),
        ("ALTER TABLE v3_plans ADD CONSTRAINT ck_mine CHECK (attempt < 9)",), "note",
    ),
    Fault(
        Kind.NOT_VALID, CHECK, (), "VALIDATE CONSTRAINT ck_v3_plans_attempt", (),
        (DROP_CHECK, f"ALTER TABLE v3_plans ADD {TEXT} NOT VALID"),
    ),
    Fault(
        Kind.NOT_VALID, "v3_plans.fk_v3_plans_root_plan_id", (), "VALIDATE CONSTRAINT", (),
        ("ALTER TABLE v3_plans DROP CONSTRAINT fk_v3_plans_root_plan_id, ADD CONSTRAINT "
         "fk_v3_plans_root_plan_id FOREIGN KEY (root_plan_id) REFERENCES v3_plans "
         "ON DELETE RESTRICT NOT VALID",),
    ),
    Fault(
        Kind.CONSTRAINT_CHANGED, "v3_plans.fk_v3_plans_parent_plan_id", (), "ON DELETE SET NULL",
        in_text("ON DELETE SET NULL", "ON DELETE CASCADE"),
        ("ALTER TABLE v3_plans DROP CONSTRAINT fk_v3_plans_parent_plan_id, ADD CONSTRAINT "
         "fk_v3_plans_parent_plan_id FOREIGN KEY (parent_plan_id) REFERENCES v3_plans "
         "ON DELETE CASCADE",),
    ),
    Fault(
        Kind.CONSTRAINT_MISSING, "plan_arguments.uq_plan_arguments_plan_id_name", (), "UNIQUE", (),
        ("ALTER TABLE plan_arguments DROP CONSTRAINT uq_plan_arguments_plan_id_name",),
    ),
    *(
        Fault(
            Kind.CONSTRAINT_RENAMED, "v3_plans.fk_v3_plans_parent_plan_id", (), remedy,
            on_sqlite, on_postgresql, "note",
        )
        for remedy, on_sqlite, on_postgresql in (
            ("by its name", in_text("fk_v3_plans_parent_plan_id", "mine"), ()),
            ("RENAME CONSTRAINT mine TO fk_v3_plans_parent_plan_id", (),
             ("ALTER TABLE v3_plans RENAME CONSTRAINT fk_v3_plans_parent_plan_id TO mine",)),
        )
    ),
    Fault(
        Kind.CONSTRAINT_EXTRA, "v3_plans.mine", (), "leaves it alone",
        in_text(TEXT, "CONSTRAINT mine FOREIGN KEY (last_checkpoint_id) REFERENCES v3_plans "
                f"(plan_id), {TEXT}"),
        ("ALTER TABLE v3_plans ADD CONSTRAINT mine FOREIGN KEY (last_checkpoint_id) "
         "REFERENCES v3_plans (plan_id)",), "note",
    ),
    Fault(
        Kind.INDEX_MISSING, "v3_plans.ix_v3_plans_queued", (), " ix_v3_plans_queued ON ",
        **both("DROP INDEX ix_v3_plans_queued"),
    ),
    Fault(
        Kind.INDEX_CHANGED, "v3_plans.ix_v3_plans_queued", (), "ix_v3_plans_queued, then",
        **both("DROP INDEX ix_v3_plans_queued", "CREATE INDEX ix_v3_plans_queued ON v3_plans "
               "(phase, plan_id) WHERE processing_state = 'complete'"),
    ),
    Fault(
        Kind.INDEX_RENAMED, "v3_plans.ix_v3_plans_queued", (), "RENAME TO ix_v3_plans_queued",
        **both("DROP INDEX ix_v3_plans_queued", "CREATE INDEX mine ON v3_plans "
               "(phase, plan_id) WHERE processing_state = 'queued'"), severity="note",
    ),
    Fault(
        Kind.INDEX_EXTRA, "v3_plans.mine", (), "nothing",
        **both("CREATE INDEX mine ON v3_plans (created_by)"), severity="note",
    ),
    Fault(
        Kind.INDEX_INVALID, "v3_plans.ix_v3_plans_queued", (), "REINDEX INDEX CONCURRENTLY", (),
        ("UPDATE pg_index SET indisvalid = false "
         "WHERE indexrelid = 'ix_v3_plans_queued'::regclass",),
    ),
    Fault(
        Kind.COLUMN_EXTRA, "v3_plans.mine", (), "leaves it alone",
        **both("ALTER TABLE v3_plans ADD COLUMN mine TEXT"), severity="note",
    ),
    Fault(
        Kind.COLUMN_EXTRA, "v3_plans.mine", (), "give v3_plans.mine a default",
        in_text("created_by VARCHAR(255), ", "created_by VARCHAR(255), mine TEXT NOT NULL, "),
        ("ALTER TABLE v3_plans ADD mine TEXT NOT NULL DEFAULT ''",
         "ALTER TABLE v3_plans ALTER mine DROP DEFAULT"),
    ),
    Fault(
        Kind.COLUMN_MISSING, "v3_plans.execution_environment", (), "ADD COLUMN",
        ("ALTER TABLE v3_plans DROP COLUMN execution_environment",),
        ("ALTER TABLE v3_plans DROP COLUMN execution_environment",),
    ),
    Fault(
        Kind.COLUMN_DEFAULT, "v3_plans.phase", (), "SET DEFAULT 'action'",
        in_text("DEFAULT 'action'", "DEFAULT 'strategize'"),
        ("ALTER TABLE v3_plans ALTER phase SET DEFAULT 'strategize'",),
    ),
    Fault(
        Kind.COLUMN_NULL, "v3_plans.automation_profile", (), "SET NOT NULL",
        in_text("DEFAULT 'balanced' NOT NULL", "DEFAULT 'balanced'")
        + in_text("NOT NULL DEFAULT 'balanced'", "DEFAULT 'balanced'"),
        ("ALTER TABLE v3_plans ALTER automation_profile DROP NOT NULL",),
    ),
    Fault(
        Kind.COLUMN_NULL, "v3_plans.created_by", (), "DROP NOT NULL",
        in_text("created_by VARCHAR(255)", "created_by VARCHAR(255) NOT NULL"),
        ("UPDATE v3_plans SET created_by = 'x'",
         "ALTER TABLE v3_plans ALTER created_by SET NOT NULL"),
    ),
    Fault(
        Kind.COLUMN_TYPE, "v3_plans.action_name", (), "TYPE",
        in_text("action_name VARCHAR(255)", "action_name VARCHAR(90)"),
        ("ALTER TABLE v3_plans ALTER action_name TYPE VARCHAR(90)",),
    ),
    Fault(
        Kind.TABLE_MISSING, "plan_invariants", (), "restore it",
        **both("DROP TABLE plan_invariants"),
    ),
    *(
        Fault(
            Kind.VERSION, "alembic_version", (), remedy,
            **both(f"UPDATE alembic_version SET version_num = '{stamp}'", *dropped),
        )
        for stamp, dropped, remedy in (
            (M4_003, (), f"stamp {HEAD}"),
            (HEAD, tuple(f"DROP INDEX {name}" for name in M8_002_INDEXES), M8_001),
            ("z9_999_tomorrow", (), "install the release"),
            (HEAD, ("ALTER TABLE v3_plans DROP effective_profile_snapshot",), "says what is"),
        )
    ),
    Fault(
        Kind.UNFINISHED, "alembic_version", (), "run the same command again", (),
        (f"COMMENT ON TABLE alembic_version IS '[unfinished upgrade of {HEAD}]'",),
    ),
    Fault(
        Kind.SECOND_SCHEMA, "other.v3_plans", (), "tenant", (),
        ("CREATE SCHEMA other", "CREATE TABLE other.v3_plans (plan_id TEXT)"), "note",
    ),
    Fault(
        Kind.SECOND_SCHEMA, "other.v3_plans", (), "remove other or public from the search_path", (),
        ("CREATE SCHEMA other", "CREATE TABLE other.v3_plans (plan_id TEXT)",
         "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path TO public, other', "
         "current_database()); END $$"),
    ),
    Fault(
        Kind.OWNER, "plan_projects", (), "OWNER TO postgres", (),
        # Of a role that is not trusted, it is refused.
        (MALLORY, "ALTER SCHEMA public OWNER TO mallory",
         "ALTER TABLE plan_projects OWNER TO mallory"),
    ),
    Fault(
        Kind.TRIGGER_MISSING, "v3_plans.v3_plans_fill", (), RECREATE, (),
        ("DROP TRIGGER v3_plans_fill ON v3_plans",),
    ),
    Fault(
        Kind.TRIGGER_DISABLED, "v3_plans.v3_plans_fill", (), "ENABLE ALWAYS TRIGGER", (),
        ("ALTER TABLE v3_plans DISABLE TRIGGER v3_plans_fill",),
    ),
    Fault(
        Kind.TRIGGER_DISABLED, "v3_plans.v3_plans_fill", (), "ENABLE ALWAYS TRIGGER", (),
        ("ALTER TABLE v3_plans ENABLE TRIGGER v3_plans_fill",),
    ),
    Fault(
        Kind.TRIGGER_CHANGED, "v3_plans.v3_plans_fill", (), RECREATE, (),
        ("CREATE OR REPLACE TRIGGER v3_plans_fill BEFORE INSERT OR UPDATE ON v3_plans FOR EACH ROW "
         "WHEN (new.root_plan_id IS NULL) EXECUTE FUNCTION v3_plans_fill()",),
    ),
    Fault(
        Kind.TRIGGER_EXTRA, "v3_plans.mine", (), "it fires for the rows", (),
        ("CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
         "CREATE TRIGGER mine BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION mine()"),
        "note",
    ),
    Fault(
        Kind.TRIGGER_EXTRA, "v3_plans.v3_plans_unfill", (), "DROP TRIGGER v3_plans_unfill", (),
        ("CREATE FUNCTION mine() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
         "CREATE TRIGGER v3_plans_unfill BEFORE UPDATE ON v3_plans FOR EACH ROW "
         "EXECUTE FUNCTION mine()"),
    ),
    Fault(
        Kind.FUNCTION_CHANGED, FUNCTION, (), RECREATE, (),
        ("DO $$ BEGIN EXECUTE replace(pg_get_functiondef('v3_plans_fill'::regproc), "
         "'>= 200', '>= 300'); END $$",),
    ),
    Fault(
        Kind.FUNCTION_EXTRA, "former.v3_plans_fill()", (), "DROP FUNCTION former.v3_plans_fill()",
        (), ("CREATE SCHEMA former", "SET check_function_bodies = off",
             "DO $$ BEGIN EXECUTE replace(pg_get_functiondef("
             "'v3_plans_fill()'::regprocedure), 'public.', 'former.'); END $$"), "note",
    ),
    *(
        Fault(Kind.FUNCTION_RIGHTS, FUNCTION, (), RECREATE, (), (statement,))
        for statement in (
            "ALTER FUNCTION v3_plans_fill() SECURITY INVOKER",
            "ALTER FUNCTION v3_plans_fill() RESET search_path",
            "ALTER FUNCTION v3_plans_fill() SET search_path TO pg_catalog, public, pg_temp",
        )
    ),
    *(
        Fault(
            Kind.FUNCTION_RIGHTS, FUNCTION, (),
            f"REVOKE ALL ON FUNCTION public.v3_plans_fill() FROM {granted} CASCADE", (),
            (MALLORY, f"GRANT EXECUTE ON FUNCTION v3_plans_fill() TO {granted}"),
        )
        for granted in ("PUBLIC", "mallory")
    ),
    *(
        Fault(
            Kind.FUNCTION_RIGHTS, FUNCTION, (), remedy, (),
            (MALLORY, *changed, f"ALTER FUNCTION v3_plans_fill() OWNER TO {owner}",
             "REVOKE ALL ON FUNCTION v3_plans_fill() FROM PUBLIC"),
        )
        for owner, remedy, changed in (
            ("mallory", 'DROP FUNCTION public.v3_plans_fill() CASCADE, and create it by the SQL of '
             '"To create v3_plans_fill again" in docs/security.md', ()),
            ("mallory", 'DROP FUNCTION public.v3_plans_fill() CASCADE, and create it by the SQL of '
             '"To create v3_plans_fill again" in docs/security.md',
             ("CREATE OR REPLACE FUNCTION v3_plans_fill() RETURNS trigger LANGUAGE plpgsql "
              "SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN new; END'",)
             ),
        )
    ),
    Fault(
        Kind.TABLE_RIGHTS, "v3_plans_snapshot_archive", (),
        "REVOKE INSERT, UPDATE ON public.v3_plans_snapshot_archive FROM mallory CASCADE", (),
        (MALLORY, "CREATE TABLE v3_plans_snapshot_archive AS SELECT plan_id FROM v3_plans",
         "GRANT SELECT, INSERT, UPDATE (plan_id) ON v3_plans_snapshot_archive TO mallory"),
    ),
    *(
        Fault(
            Kind.TABLE_RIGHTS, table, (), f"REVOKE DELETE ON public.{table} FROM mallory", (),
            (MALLORY, f"GRANT SELECT, DELETE ON {table} TO mallory"), "note",
        )
        for table in ("alembic_version", "evolution_runs")
    ),
    Fault(
        Kind.TABLE_RIGHTS, "evolution_runs", (),
        "REVOKE SELECT ON public.evolution_runs FROM mallory CASCADE", (),
        (MALLORY, "GRANT SELECT ON evolution_runs TO mallory",
         "ALTER TABLE v3_plans ENABLE ROW LEVEL SECURITY"), "note",
    ),
    Fault(
        Kind.ROW_SECURITY, "v3_plans", (),
        "ALTER TABLE public.v3_plans NO FORCE ROW LEVEL SECURITY", (),
        (MALLORY, "GRANT SELECT ON ALL TABLES IN SCHEMA public TO mallory",
         "ALTER SCHEMA public OWNER TO mallory",
         "ALTER TABLE v3_plans OWNER TO mallory, ENABLE ROW LEVEL SECURITY, "
         "FORCE ROW LEVEL SECURITY"),
    ),
    Fault(
        Kind.ROW_SECURITY, "v3_plans_snapshot_archive", (),
        "ALTER TABLE public.v3_plans_snapshot_archive NO FORCE ROW LEVEL SECURITY", (),
        (MALLORY, "CREATE TABLE v3_plans_snapshot_archive AS SELECT plan_id FROM v3_plans",
         "ALTER TABLE v3_plans_snapshot_archive OWNER TO mallory, ENABLE ROW LEVEL SECURITY, "
         "FORCE ROW LEVEL SECURITY"),
    ),
    Fault(
        Kind.TRIGGER_EXTRA, "other.mine.z", (), "DROP TRIGGER z ON other.mine", (),
        (MALLORY, "CREATE SCHEMA other", "CREATE TABLE other.mine (plan_id text)",
         "CREATE TRIGGER z BEFORE INSERT ON other.mine FOR EACH ROW EXECUTE FUNCTION "
         "v3_plans_fill()", "ALTER TABLE other.mine OWNER TO mallory"),
    ),
]  # fmt: skip


def cases() -> Iterator[Any]:
    for number, fault in enumerate(ROWS + SCHEMA):
        for engine in ONE_OF_EACH:
            if fault.on_sqlite if engine == SQLITE else fault.on_postgresql:
                yield pytest.param(fault, engine, id=f"{number}-{fault.kind}-{engine}")


@pytest.mark.parametrize(("fault", "engine"), list(cases()))
def test_fault_is_found_by_name_with_its_plans_and_its_remedy(
    fault: Fault, engine: str, tmp_path: Path
):
    with database_with(store_family, engine, tmp_path) as url:
        break_database(url, fault.on_sqlite if engine == SQLITE else fault.on_postgresql)

        found = looked_at(url)

    (finding,) = [
        each for each in found.findings if (each.kind, each.subject) == (fault.kind, fault.subject)
    ]
    assert finding.severity == fault.severity
    assert finding.plan_ids == fault.plans
    assert finding.total == max(1, len(fault.plans))
    assert fault.remedy in finding.remedy
    assert all("\n" not in text for text in (finding.found, finding.remedy))


UNFINISHED_DOWNGRADE = f"COMMENT ON TABLE alembic_version IS '[unfinished downgrade of {M8_001}]'"
LEFT = [
    "CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
    "REVOKE ALL ON FUNCTION {name}() FROM PUBLIC",
    "CREATE TRIGGER {name} BEFORE UPDATE ON v3_plans FOR EACH ROW EXECUTE FUNCTION {name}()",
]


@pytest.mark.parametrize("name", ["v3_plans_fill", "v3_plans_unfill", "v3_plans_keep"])
@pytest.mark.parametrize("unfinished", [False, True])
def test_trigger_of_a_revision_stays_where_only_its_function_has_another_owner(
    unfinished: bool, name: str, tmp_path: Path
):
    # As `pg_restore --no-owner` leaves them, if only the tables are given to their owner.
    with database_with(store_family, POSTGRESQL, tmp_path) as url:
        left = [] if name == "v3_plans_fill" else [each.format(name=name) for each in LEFT]
        noted = [UNFINISHED_DOWNGRADE] * unfinished
        break_database(
            url,
            [MALLORY, "GRANT CREATE ON SCHEMA public TO mallory", *left, *noted,
             *(f"ALTER TABLE {table} OWNER TO mallory"
               for table in ("v3_plans", "plan_arguments", "plan_invariants", "plan_projects",
                             "alembic_version")),
             *["ALTER FUNCTION v3_plans_fill() OWNER TO mallory"] * bool(left)],
        )  # fmt: skip

        found = looked_at(url).findings
        with pytest.raises(EvolutionError) as refused:
            roll_back(url, M4_003)

    (finding,) = [each for each in found if each.subject == f"{name}()"]
    remedy = f"ALTER FUNCTION public.{name}() OWNER TO mallory"
    assert (finding.kind, remedy in finding.remedy) == (Kind.FUNCTION_RIGHTS, True)
    assert remedy in str(refused.value)
    leftover = bool(left) and not unfinished
    extra = [each for each in found if each.kind == Kind.TRIGGER_EXTRA]
    assert [each.subject for each in extra] == [f"v3_plans.{name}"] * leftover
    assert all("no revision" not in each.found for each in extra)


def test_every_kind_is_planted():
    planted = {fault.kind for fault in ROWS + SCHEMA}

    assert {*Kind} - planted == {Kind.TABLE_UNREADABLE}


def test_definition_that_only_a_later_sqlite_knows_hides_no_other_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    # What this SQLite cannot read itself, it refuses before.
    class Known(CreateTable):
        def __init__(self, text: str) -> None:
            if "plan_invariants" in text.split("(")[0]:
                raise DdlNotUnderstood("found MATERIALIZED")
            super().__init__(text)

    with database_with(store_family, SQLITE, tmp_path) as url:
        break_database(url, ["DROP TABLE plan_arguments"])
        looked_at(url)  # what is expected is known by now
        monkeypatch.setattr(sqlite_tables, "CreateTable", Known)

        found = {each.kind: each.subject for each in looked_at(url).findings}

    assert found == {
        Kind.TABLE_UNREADABLE: "plan_invariants",
        Kind.TABLE_MISSING: "plan_arguments",
        Kind.VERSION: "alembic_version",
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("revision", CHAIN)
def test_good_database_has_no_findings_at_any_revision(revision: str, engine: str, tmp_path: Path):
    with database_at(revision, engine, tmp_path) as url:
        found = looked_at(url, fingerprint=True)

    assert found.findings == ()
    assert found.read_plans


@pytest.mark.parametrize("engine", ONE_OF_EACH)
def test_family_with_a_detached_plan_is_sound(engine: str, tmp_path: Path):
    with database_with(store_family, engine, tmp_path) as url:
        found = looked_at(url)

    assert found == Verification(5, (), None, True)


def test_remedies_of_odd_ids_can_be_typed(tmp_path: Path):
    with database_with(store_family, SQLITE, tmp_path) as url:
        break_database(
            url,
            [f"UPDATE v3_plans SET plan_id = X'ff00', parent_plan_id = 'x' WHERE plan_id = '{D}'",
             f"UPDATE v3_plans SET plan_id = 'it''s', parent_plan_id = 'x' WHERE plan_id = '{E}'"],
        )  # fmt: skip
        for literal in ("X'ff00'", "'it''s'"):
            (finding,) = [
                each for each in looked_at(url).findings if each.kind == Kind.PARENT_NOT_STORED
            ]
            statement, _, _ = finding.remedy.partition(" detaches the plan")
            assert statement.endswith(f"plan_id = {literal}")
            break_database(url, [statement])

        assert Kind.PARENT_NOT_STORED not in [each.kind for each in looked_at(url).findings]


def test_index_on_an_expression_is_a_note(tmp_path: Path):
    with database_with(store_family, SQLITE, tmp_path) as url:
        break_database(url, ["CREATE UNIQUE INDEX mine ON v3_plans (lower(plan_id))"])

        (finding,) = looked_at(url).findings

    assert (finding.kind, finding.severity) == (Kind.INDEX_EXTRA, "note")


def test_indexes_that_are_being_built_anew_are_no_fault_and_leftovers_are_to_be_dropped(
    tmp_path: Path,
):
    left = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"
    with (
        database_with(store_family, POSTGRESQL, tmp_path) as url,
        psycopg.connect(libpq(url), autocommit=True) as observer,
        psycopg.connect(libpq(url)) as writer,
        psycopg.connect(libpq(url), autocommit=True) as builder,
        ThreadPoolExecutor() as threads,
    ):
        writer.execute("LOCK TABLE v3_plans IN ROW EXCLUSIVE MODE")
        pid = builder.info.backend_pid
        work = threads.submit(builder.execute, "REINDEX TABLE CONCURRENTLY v3_plans")
        wait_until(lambda: len(observer.execute(left).fetchall()) > 2)

        while_built = looked_at(url).findings

        observer.execute("SELECT pg_cancel_backend(%s)", (pid,))
        with pytest.raises(psycopg.errors.QueryCanceled):
            work.result()
        writer.rollback()
        interrupted = looked_at(url).findings
        for finding in interrupted:
            observer.execute(finding.remedy.encode())

        assert looked_at(url).findings == ()
    assert while_built
    assert {(each.kind, each.severity) for each in while_built} == {(Kind.INDEX_INVALID, "note")}
    assert all(f"the process {pid} is" in each.found for each in while_built)
    assert {(each.kind, each.severity) for each in interrupted} == {(Kind.INDEX_INVALID, "fault")}


def test_index_that_is_being_built_is_no_fault(tmp_path: Path):
    with (
        database_with(store_family, POSTGRESQL, tmp_path) as url,
        psycopg.connect(libpq(url), autocommit=True) as observer,
        psycopg.connect(libpq(url)) as writer,
        psycopg.connect(libpq(url), autocommit=True) as builder,
        ThreadPoolExecutor() as threads,
    ):
        writer.execute("LOCK TABLE v3_plans IN ROW EXCLUSIVE MODE")
        create = "CREATE INDEX CONCURRENTLY mine ON v3_plans (created_by)"
        work = threads.submit(builder.execute, create)
        wait_until(lambda: observer.execute("SELECT to_regclass('mine')").fetchone() != (None,))
        found = looked_at(url).findings
        writer.rollback()
        work.result()

    assert {(each.kind, each.severity) for each in found} == {
        (Kind.INDEX_EXTRA, "note"), (Kind.INDEX_INVALID, "note"),
    }  # fmt: skip
