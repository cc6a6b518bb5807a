"""An application keeps a chain of its own in the same database, in either of two ways."""

from __future__ import annotations

import re
from pathlib import Path
from shutil import copy

import alembic
import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, inspect

from cleveragents_plans.cli import main
from cleveragents_plans.schema import chain_location, current, downgrade, upgrade
from support.revisions import A5_004, HEAD, M4_003, M8_001

#: The revisions of the application; the second one depends on the plans.
APPLICATION, SECOND = "1a1a1a1a1a1a", "2b2b2b2b2b2b"

_MODELS = """\
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table

metadata = MetaData()
jobs = Table("jobs", metadata, Column("id", Integer, primary_key=True), Column("name", String(20)))
"""
_OWN_ENV = """\
from alembic import context
from sqlalchemy import create_engine, pool
from cleveragents_plans.schema import include_object
{models}
engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection, target_metadata=metadata{include})
    with context.begin_transaction():
        context.run_migrations()
"""
_SHARED_ENV = """\
from cleveragents_plans.schema import run_environment
{models}
run_environment(metadata)
"""
_FIRST = """\
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels = "1a1a1a1a1a1a", None, ("jobs",)


def upgrade():
    op.create_table(
        "jobs", sa.Column("id", sa.Integer(), primary_key=True), sa.Column("name", sa.String(20))
    )


def downgrade():
    op.drop_table("jobs")
"""
_SECOND = """\
import sqlalchemy as sa
from alembic import op

revision, down_revision, depends_on = "2b2b2b2b2b2b", "1a1a1a1a1a1a", "{depends_on}"


def upgrade():
    op.create_table(
        "job_plans",
        sa.Column("job_id", sa.Integer(), primary_key=True),
        sa.Column("plan_id", sa.String(26), sa.ForeignKey("v3_plans.plan_id"), nullable=False),
    )


def downgrade():
    op.drop_table("job_plans")
"""
SECOND_MODEL = """\
from cleveragents_plans import LifecyclePlanModel

plan_id = LifecyclePlanModel.__table__.c.plan_id
Table(
    "job_plans", metadata, Column("job_id", Integer, primary_key=True),
    Column("plan_id", String(26), ForeignKey(plan_id), nullable=False),
)
"""


def tables(url: str) -> set[str]:
    return set(inspect(create_engine(url, poolclass=NullPool)).get_table_names())


def stored(url: str, table: str = "alembic_version") -> set[str]:
    with create_engine(url, poolclass=NullPool).connect() as connection:
        return set(connection.exec_driver_sql(f"SELECT version_num FROM {table}").scalars())


def store(url: str, versions: set[str]) -> None:
    with create_engine(url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("DELETE FROM alembic_version")
        for version in versions:
            connection.exec_driver_sql(f"INSERT INTO alembic_version VALUES ('{version}')")


class Application:
    """The chain of an application: its folder, and how Alembic is configured for it."""

    def __init__(self, folder: Path, url: str, env: str, *, with_plans: bool = False) -> None:
        self.versions = folder / "versions"
        self.versions.mkdir(parents=True)
        (folder / "env.py").write_text(env)
        (self.versions / "first.py").write_text(_FIRST)
        self.config = Config(attributes={"url": url})
        self.config.set_main_option("script_location", str(folder))
        self.config.set_main_option("path_separator", "newline")
        locations = [self.versions, *([chain_location() / "versions"] if with_plans else [])]
        self.config.set_main_option("version_locations", "\n".join(map(str, locations)))

    def add_second(self, depends_on: str) -> None:
        (self.versions / "second.py").write_text(_SECOND.format(depends_on=depends_on))


# Two chains, two version tables


@pytest.fixture
def beside(tmp_path: Path, empty_url: str) -> Application:
    env = _OWN_ENV.format(models=_MODELS, include=", include_object=include_object")
    return Application(tmp_path / "app", empty_url, env)


@pytest.mark.slow
@pytest.mark.parametrize("first", ["application", "plans"])
def test_each_chain_has_a_version_table_of_its_own(beside: Application, empty_url: str, first: str):
    def application() -> None:
        command.upgrade(beside.config, "head")

    def plans() -> None:
        upgrade(empty_url, version_table="plans_version")

    for act in (application, plans) if first == "application" else (plans, application):
        act()

    assert {"jobs", "v3_plans"} <= tables(empty_url)
    assert stored(empty_url) == {"1a1a1a1a1a1a"}
    assert stored(empty_url, "plans_version") == {HEAD}
    downgrade(empty_url, M4_003, version_table="plans_version")
    upgrade(empty_url, version_table="plans_version")
    assert current(empty_url, version_table="plans_version", check_heads=True) == HEAD
    command.downgrade(beside.config, "base")
    assert "v3_plans" in tables(empty_url)
    assert stored(empty_url, "plans_version") == {HEAD}


def test_plans_are_not_upgraded_into_the_version_table_of_the_application(
    beside: Application, empty_url: str
):
    command.upgrade(beside.config, "head")

    with pytest.raises(CommandError, match=r"another application's.*version-table=plans_version"):
        upgrade(empty_url)

    assert tables(empty_url) == {"alembic_version", "jobs"}


def test_autogenerate_of_the_application_leaves_the_plans_alone(
    beside: Application, empty_url: str, tmp_path: Path
):
    command.upgrade(beside.config, "head")
    upgrade(empty_url, version_table="plans_version")
    # A downgrade keeps snapshots in a table that no model has.
    with create_engine(empty_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE v3_plans_snapshot_archive (plan_id varchar(26))")
    command.check(beside.config)

    careless = Application(
        tmp_path / "careless", empty_url, _OWN_ENV.format(models=_MODELS, include="")
    )
    with pytest.raises(CommandError, match=r"remove_table.*v3_plans"):
        command.check(careless.config)


def test_autogenerate_of_the_application_still_sees_its_own_tables(
    beside: Application, empty_url: str
):
    command.upgrade(beside.config, "head")
    upgrade(empty_url, version_table="plans_version")
    with create_engine(empty_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE forgotten (id int)")

    with pytest.raises(CommandError, match="forgotten") as found:
        command.check(beside.config)

    assert "plans" not in str(found.value).replace("version_locations", "")


# One chain, two folders


@pytest.fixture
def shared(tmp_path: Path, empty_url: str) -> Application:
    env = _SHARED_ENV.format(models=_MODELS + SECOND_MODEL)
    return Application(tmp_path / "app", empty_url, env, with_plans=True)


@pytest.mark.slow
@pytest.mark.parametrize("depends_on", [M8_001, HEAD])
def test_one_chain_holds_the_revisions_of_both(
    shared: Application, empty_url: str, depends_on: str
):
    shared.add_second(depends_on)
    command.upgrade(shared.config, "heads")

    assert {"jobs", "job_plans", "v3_plans"} <= tables(empty_url)
    assert stored(empty_url) == {"2b2b2b2b2b2b", *([HEAD] if depends_on != HEAD else [])}
    command.check(shared.config)
    if depends_on != HEAD:  # Alembic counts a head that another revision depends on as missing
        command.current(shared.config, check_heads=True)
    command.upgrade(shared.config, "heads")  # nothing to do

    command.downgrade(shared.config, "jobs@1a1a1a1a1a1a")
    assert "job_plans" not in tables(empty_url)
    assert stored(empty_url) == {"1a1a1a1a1a1a", HEAD}
    command.downgrade(shared.config, f"{HEAD}-1" if depends_on == HEAD else M8_001)
    command.upgrade(shared.config, "heads")
    assert {"jobs", "job_plans", "v3_plans"} <= tables(empty_url)


def test_application_that_needs_the_plans_upgrades_them_first(shared: Application, empty_url: str):
    shared.add_second(M8_001)

    command.upgrade(shared.config, "jobs@head")

    assert stored(empty_url) == {"2b2b2b2b2b2b"}
    assert {"jobs", "job_plans", "v3_plans"} <= tables(empty_url)
    command.upgrade(shared.config, "heads")
    assert stored(empty_url) == {"2b2b2b2b2b2b", HEAD}


@pytest.mark.slow
def test_downgrade_of_the_plans_takes_what_depends_on_them_with_it(
    shared: Application, empty_url: str
):
    shared.add_second(M8_001)
    command.upgrade(shared.config, "heads")

    command.downgrade(shared.config, M4_003)

    assert stored(empty_url) == {"1a1a1a1a1a1a", M4_003}
    assert "job_plans" not in tables(empty_url)
    assert {"jobs", "v3_plans"} <= tables(empty_url)


def adopting(shared: Application, url: str, folder: Path) -> None:
    """Leave the database as the application's own env.py did, before the plans came."""
    env = _OWN_ENV.format(models=_MODELS, include="")
    command.upgrade(Application(folder, url, env).config, "head")
    assert stored(url) == {APPLICATION}


@pytest.mark.slow
@pytest.mark.parametrize("goal", ["heads", HEAD, "jobs@head"])
@pytest.mark.parametrize("depends_on", [None, M8_001])
def test_plans_join_the_chain_of_an_application_that_is_in_use(
    shared: Application, empty_url: str, tmp_path: Path, goal: str, depends_on: str | None
):
    adopting(shared, empty_url, tmp_path / "before")
    if depends_on:
        shared.add_second(depends_on)
    command.current(shared.config)
    with pytest.raises(CommandError, match="not up to date"):
        command.check(shared.config)

    command.upgrade(shared.config, goal)
    command.upgrade(shared.config, "heads")

    assert stored(empty_url) == {SECOND if depends_on else APPLICATION, HEAD}
    assert {"jobs", "v3_plans"} <= tables(empty_url)
    # Each branch goes down by itself, and up again.
    command.downgrade(shared.config, f"jobs@{APPLICATION}")
    command.downgrade(shared.config, f"{A5_004}@base")
    assert stored(empty_url) == {APPLICATION}
    assert "jobs" in tables(empty_url)
    command.upgrade(shared.config, "heads")
    command.downgrade(shared.config, "jobs@base")
    assert stored(empty_url) == {HEAD}


def test_branch_of_the_application_goes_up_and_down_without_the_plans(
    shared: Application, empty_url: str
):
    command.upgrade(shared.config, "jobs@head")
    assert stored(empty_url) == {APPLICATION}

    command.downgrade(shared.config, "jobs@base")

    assert stored(empty_url) == set()
    assert "jobs" not in tables(empty_url)


def mended_as_told(shared: Application, url: str) -> str:
    """Let an upgrade refuse, and run the stamp that it tells; give what it said."""
    with pytest.raises(CommandError) as refused:
        command.upgrade(shared.config, "heads")
    said = str(refused.value)
    told = re.search(r"run `alembic stamp --purge ([^`]*)`", said)
    assert told, said
    command.stamp(shared.config, told[1].split(), purge=True)
    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kept", "said"),
    [
        pytest.param({APPLICATION}, "tables of another branch are there", id="plans"),
        pytest.param({SECOND, M8_001, HEAD}, "one of which comes after the other", id="two"),
        pytest.param({SECOND, HEAD, ""}, "holds '', which is no revision", id="empty"),
    ],
)
def test_version_of_the_other_branch_is_kept_by_the_stamp_that_is_told(
    shared: Application, empty_url: str, kept: set[str], said: str
):
    shared.add_second(M8_001)
    command.upgrade(shared.config, "heads")
    if SECOND not in kept:
        command.downgrade(shared.config, f"jobs@{APPLICATION}")
    store(empty_url, kept)

    assert said in mended_as_told(shared, empty_url)

    assert stored(empty_url) == {SECOND if SECOND in kept else APPLICATION, HEAD}
    command.upgrade(shared.config, "heads")
    command.check(shared.config)


@pytest.mark.slow
def test_stamp_that_is_told_keeps_no_version_that_needs_a_later_one_of_the_plans(
    shared: Application, empty_url: str
):
    shared.add_second(M8_001)
    command.upgrade(shared.config, "heads")
    command.downgrade(shared.config, M4_003)
    store(empty_url, {SECOND, HEAD})

    said = mended_as_told(shared, empty_url)

    assert "they look as m4_003_plan_env_columns makes them" in said
    assert stored(empty_url) == {APPLICATION, M4_003}
    command.upgrade(shared.config, "heads")
    assert stored(empty_url) == {SECOND, HEAD}


def test_version_without_any_table_of_both_is_mended_by_the_stamp_that_is_told(
    shared: Application, empty_url: str
):
    command.upgrade(shared.config, "heads")
    command.downgrade(shared.config, "base")
    store(empty_url, {APPLICATION, HEAD})

    assert "there are no tables" in mended_as_told(shared, empty_url)

    assert stored(empty_url) == set()


def test_damage_of_the_tables_is_told_where_only_a_dependent_is_stored(
    shared: Application, empty_url: str
):
    """A stamp would not mend it: the tables look as the newest that it depends on."""
    shared.add_second(HEAD)
    command.upgrade(shared.config, "heads")
    with create_engine(empty_url, poolclass=NullPool).begin() as connection:
        if empty_url.startswith("sqlite"):
            connection.exec_driver_sql("PRAGMA writable_schema = on")
            connection.exec_driver_sql(
                "UPDATE sqlite_schema SET sql = replace(sql, 'root_plan_id VARCHAR(26) NOT NULL',"
                " 'root_plan_id VARCHAR(26)') WHERE name = 'v3_plans'"
            )
        else:
            connection.exec_driver_sql("ALTER TABLE v3_plans ALTER root_plan_id DROP NOT NULL")

    with pytest.raises(CommandError, match=r"the tables lack a part.*verify") as refused:
        command.upgrade(shared.config, "heads")

    assert "stamp" not in str(refused.value)


def test_newer_version_of_the_application_without_any_table_is_told_what_can_be_typed(
    shared: Application, empty_url: str
):
    command.upgrade(shared.config, "heads")
    command.downgrade(shared.config, "base")
    store(empty_url, {"3c3c3c3c3c3c"})

    with pytest.raises(CommandError, match="this release does not know") as refused:
        command.upgrade(shared.config, "heads")

    assert "run `alembic -x version-table=plans_version upgrade heads`" in str(refused.value)


def test_misspelt_revision_is_answered_with_heads(shared: Application, empty_url: str):
    with pytest.raises(CommandError, match=f"known: .*{APPLICATION}.*, heads and base"):
        command.upgrade(shared.config, "haeds")


@pytest.mark.slow
@pytest.mark.parametrize("word", ["upgrade", "status", "preflight", "verify"])
@pytest.mark.parametrize("depends_on", [M8_001, HEAD])
def test_program_of_the_plans_leads_to_the_chain_of_the_application(
    shared: Application,
    empty_url: str,
    word: str,
    depends_on: str,
    capfd: pytest.CaptureFixture[str],
):
    shared.add_second(depends_on)
    command.upgrade(shared.config, "heads")
    capfd.readouterr()

    assert main([word, "--url", empty_url]) != 0

    said = " ".join("".join(capfd.readouterr()).split())
    assert SECOND in said
    assert "if an application's chain holds both, run its `alembic`; " in said


def test_first_revision_of_a_branch_that_was_interrupted_is_undone_alone(
    tmp_path: Path, postgresql_url: str
):
    env = _SHARED_ENV.format(models=_MODELS)
    shared = Application(tmp_path / "app", postgresql_url, env, with_plans=True)
    command.upgrade(shared.config, "jobs@head")
    command.upgrade(shared.config, A5_004)
    store(postgresql_url, {APPLICATION})
    with create_engine(postgresql_url, poolclass=NullPool).begin() as connection:
        comment = f"COMMENT ON TABLE alembic_version IS '[unfinished upgrade of {A5_004}]'"
        connection.exec_driver_sql(comment)

    with pytest.raises(CommandError, match="was interrupted") as refused:
        command.upgrade(shared.config, "jobs@head")
    told = re.findall(r"`alembic ([^`]*)`", str(refused.value))
    assert told == [f"upgrade {A5_004}", f"downgrade {A5_004}@base"]
    command.downgrade(shared.config, told[1].removeprefix("downgrade "))

    assert stored(postgresql_url) == {APPLICATION}
    assert "jobs" in tables(postgresql_url)
    assert "v3_plans" not in tables(postgresql_url)


def add_a_model(shared: Application, folder: Path) -> None:
    """Give the application a table that no revision makes, and Alembic's template for one."""
    env = folder / "env.py"
    more = 'Table("later", metadata, Column("id", Integer, primary_key=True))'
    env.write_text(env.read_text().replace("run_environment(m", f"{more}\n\nrun_environment(m"))
    template = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
    copy(template, folder)


@pytest.mark.parametrize("head", ["jobs@head", APPLICATION])
def test_autogenerate_writes_the_next_revision_of_the_branch_that_is_named(
    shared: Application, empty_url: str, tmp_path: Path, head: str
):
    command.upgrade(shared.config, "heads")
    add_a_model(shared, tmp_path / "app")

    written = command.revision(shared.config, "later", autogenerate=True, head=head)

    assert written.down_revision == APPLICATION
    assert Path(written.path).parent == shared.versions
    assert re.fullmatch("[0-9a-f]{12}", written.revision)  # as the one before it
    command.upgrade(shared.config, "heads")
    assert "later" in tables(empty_url)
    command.check(shared.config)


def test_autogenerate_numbers_a_revision_in_the_series_of_its_branch(
    shared: Application, empty_url: str, tmp_path: Path
):
    first = shared.versions / "first.py"
    first.write_text(first.read_text().replace(APPLICATION, "j1_007_jobs"))
    command.upgrade(shared.config, "heads")
    add_a_model(shared, tmp_path / "app")

    written = command.revision(shared.config, "Add later", autogenerate=True, head="jobs@head")

    assert written.revision == "j1_008_add_later"


def test_autogenerate_without_a_branch_is_refused_as_alembic_does(
    shared: Application, empty_url: str, tmp_path: Path
):
    command.upgrade(shared.config, "heads")
    add_a_model(shared, tmp_path / "app")

    with pytest.raises(CommandError, match="Multiple heads are present; please specify the head"):
        command.revision(shared.config, "later", autogenerate=True)

    assert [each.name for each in shared.versions.glob("*.py")] == ["first.py"]


def test_interrupted_revision_is_continued_in_a_shared_chain(shared: Application, empty_url: str):
    if empty_url.startswith("sqlite"):
        return  # one transaction: it cannot be interrupted
    shared.add_second(M8_001)
    command.upgrade(shared.config, "heads")
    with create_engine(empty_url, poolclass=NullPool).begin() as connection:
        connection.exec_driver_sql(
            f"COMMENT ON TABLE alembic_version IS '[unfinished upgrade of {HEAD}]';"
            f"UPDATE alembic_version SET version_num = '{M8_001}' WHERE version_num = '{HEAD}';"
            f"DELETE FROM alembic_version WHERE version_num = '{M8_001}'"
        )

    command.upgrade(shared.config, "heads")

    assert stored(empty_url) == {"2b2b2b2b2b2b", HEAD}
    with create_engine(empty_url, poolclass=NullPool).connect() as connection:
        comment = "SELECT obj_description('alembic_version'::regclass, 'pg_class')"
        assert connection.exec_driver_sql(comment).scalar() is None
