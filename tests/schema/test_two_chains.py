"""An application keeps a chain of its own in the same database, in either of two ways."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import NullPool, create_engine, inspect

from cleveragents_plans.schema import chain_location, current, downgrade, upgrade
from support.revisions import HEAD, M4_003, M8_001

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
