"""What is made from the column that a downgrade drops: refused, or named, before any change."""

from __future__ import annotations

from pathlib import Path

import pytest

from cleveragents_plans.evolution import EvolutionError
from support.broken import break_database
from support.databases import ONE_OF_EACH, SERVERS, database_at, migrate, roll_back
from support.revisions import HEAD, M4_003, M8_001
from support.rows import database_hash, schema_dump

SNAPSHOT = "effective_profile_snapshot"
HASH = "FOR VALUES WITH (MODULUS 1, REMAINDER 0)"
#: A table of the same columns in its place, of which one partition has all rows.
PARTITIONED = (
    "CREATE TABLE parts (LIKE v3_plans) PARTITION BY HASH (plan_id)",
    f"CREATE TABLE part PARTITION OF parts {HASH}",
    "DROP TABLE v3_plans CASCADE",
    "ALTER TABLE parts RENAME TO v3_plans",
)
REFUSED = {
    "generated column": (
        ('ALTER TABLE v3_plans ADD "Size" int GENERATED ALWAYS AS (length({0})) STORED',),
        'the generated column "Size" of public.v3_plans',
    ),
    "CHECK of two columns": (
        ("ALTER TABLE v3_plans ADD CONSTRAINT mine CHECK ({0} <> plan_id)",),
        "constraint mine on table public.v3_plans",
    ),
    "foreign key from elsewhere": (
        ("ALTER TABLE v3_plans ADD UNIQUE ({0})",
         "CREATE TABLE own (x text CONSTRAINT mine REFERENCES v3_plans ({0}))"),
        "constraint mine on table public.own",
    ),
    "policy": (
        ("CREATE POLICY mine ON v3_plans USING ({0} <> '')",),
        "policy mine on table public.v3_plans",
    ),
    "publication": (
        ("CREATE PUBLICATION mine FOR TABLE v3_plans WHERE ({0} <> '')",),
        "publication of table public.v3_plans in publication mine",
    ),
    "view of a partition": (
        (*PARTITIONED, "ALTER TABLE v3_plans ADD PRIMARY KEY (plan_id)",
         "CREATE VIEW mine AS SELECT {0} FROM part"),
        "view public.mine",
    ),
    "table that it is a partition of": (
        ("CREATE TABLE own (LIKE v3_plans) PARTITION BY LIST (phase)",
         "ALTER TABLE own ATTACH PARTITION v3_plans DEFAULT"),
        "the table public.own, from which it is inherited",
    ),
}  # fmt: skip


@pytest.mark.parametrize("engine", SERVERS)
@pytest.mark.parametrize(("statements", "user"), REFUSED.values(), ids=REFUSED)
def test_downgrade_is_refused_before_any_change_by_what_would_stop_the_drop_of_the_column(
    statements: tuple[str, ...], user: str, engine: str, tmp_path: Path
):
    with database_at(M8_001, engine, tmp_path) as url:
        break_database(url, [each.format(SNAPSHOT) for each in statements])
        before = database_hash(url), schema_dump(url)

        with pytest.raises(EvolutionError) as refused:
            roll_back(url, M4_003)

        assert (database_hash(url), schema_dump(url)) == before
    said = str(refused.value)
    assert f"v3_plans.{SNAPSHOT}, which this step would drop, is used by {user}; drop" in said
    assert "\n" not in said


def test_virtual_generated_column_stops_the_downgrade_before_any_change(tmp_path: Path):
    (_, newest) = ONE_OF_EACH
    virtual = f"size int GENERATED ALWAYS AS (length({SNAPSHOT})) VIRTUAL"
    for engine in ONE_OF_EACH:
        with database_at(HEAD, engine, tmp_path) as url:
            break_database(url, [f"ALTER TABLE v3_plans ADD {virtual}"])
            before = database_hash(url), schema_dump(url)

            named = "the generated column size" if engine == newest else "generated column is made"
            with pytest.raises(EvolutionError, match=named):
                roll_back(url, M4_003)

            assert (database_hash(url), schema_dump(url)) == before


@pytest.mark.parametrize("engine", SERVERS)
def test_downgrade_names_what_goes_with_the_column(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with database_at(HEAD, engine, tmp_path) as url:
        break_database(
            url,
            [f"CREATE INDEX mine_1 ON v3_plans (phase) WHERE {SNAPSHOT} <> ''",
             f"CREATE INDEX mine_2 ON v3_plans (phase, {SNAPSHOT})",
             f"CREATE STATISTICS mine_3 ON phase, {SNAPSHOT} FROM v3_plans",
             f"ALTER TABLE v3_plans ADD CONSTRAINT mine_4 UNIQUE ({SNAPSHOT})",
             f"GRANT SELECT ({SNAPSHOT}) ON v3_plans TO PUBLIC"],
        )  # fmt: skip
        roll_back(url, M4_003)

    made = (
        "constraint mine_4 on table public.v3_plans, index public.mine_1, index public.mine_2, "
        "statistics object public.mine_3"
    )
    assert f"is dropped with what is made from it: {made}; an upgrade does not make" in caplog.text
    assert "that were granted on it alone: SELECT to PUBLIC; an upgrade does not" in caplog.text


def test_check_of_a_run_that_made_the_column_not_null_is_no_user(tmp_path: Path):
    with database_at(M8_001, SERVERS[0], tmp_path) as url:
        break_database(
            url,
            [f"ALTER TABLE v3_plans ADD CONSTRAINT becoming_not_null_7 CHECK ({SNAPSHOT} "
             "IS NOT NULL) NOT VALID"],
        )  # fmt: skip
        roll_back(url, M4_003)
        migrate(url, HEAD)
