"""The database that is named is the one that is used; two that differ are refused."""

from __future__ import annotations

import argparse
from contextlib import contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import create_engine, inspect
from sqlalchemy.ext.asyncio import create_async_engine

from cleveragents_plans.schema import chain_location
from support.databases import ENGINES, empty_database

SECRET = "s3cret%40word"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, in which the default database would appear."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    return folder


@pytest.fixture(params=["sqlite", "postgresql-18"])
def wanted(request: pytest.FixtureRequest, tmp_path: Path):
    """The URL of an empty database on each engine."""
    if request.param not in ENGINES:
        pytest.fail(f"{request.param} is not installed")
    with empty_database(request.param, tmp_path) as url:
        yield url


def config(*x: str, ini: Path | None = None, **attributes) -> Config:
    config = Config(ini, cmd_opts=argparse.Namespace(x=list(x)), attributes=attributes)
    config.set_main_option("script_location", str(chain_location()))
    config.set_main_option("path_separator", "os")
    return config


def in_ini(url: str) -> Config:
    """A configuration file in which *url* stands."""
    file = Path("alembic.ini")
    file.write_text(f"[alembic]\nsqlalchemy.url = {url.replace('%', '%%')}\n")
    return config(ini=file)


def by_main_option(url: str) -> Config:
    chosen = config()
    chosen.set_main_option("sqlalchemy.url", url.replace("%", "%%"))
    return chosen


@contextmanager
def by_environment(url: str):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DATABASE_URL", url)
        yield config()


@contextmanager
def by_connection(url: str):
    engine = create_engine(url)
    with engine.connect() as connection:
        yield config(connection=connection)
    engine.dispose()


@contextmanager
def by_engine(url: str):
    engine = create_engine(url)
    yield config(connection=engine)
    engine.dispose()


WAYS = {
    "sqlalchemy.url in a file": in_ini,
    "set_main_option": by_main_option,
    "DATABASE_URL": by_environment,
    "-x url": lambda url: config(f"url={url}"),
    "the attribute url": lambda url: config(url=url),
    "the attribute connection, a Connection": by_connection,
    "the attribute connection, an Engine": by_engine,
}


@contextmanager
def named(way: str, url: str):
    found = WAYS[way](url)
    if isinstance(found, Config):
        yield found
        return
    with found as chosen:
        yield chosen


def is_migrated(url: str) -> bool:
    engine = create_engine(url)
    try:
        return inspect(engine).has_table("v3_plans")
    finally:
        engine.dispose()


@pytest.mark.parametrize("way", WAYS)
def test_database_that_is_named_is_the_one_that_is_migrated(way: str, wanted: str, folder: Path):
    with named(way, wanted) as chosen:
        command.upgrade(chosen, "head")

    assert is_migrated(wanted)
    assert not list(folder.glob("*.db"))


@pytest.mark.parametrize("text", ["", " ", "\n"])
@pytest.mark.parametrize(
    "way", ["sqlalchemy.url in a file", "DATABASE_URL", "-x url", "the attribute url"]
)
def test_empty_name_is_refused(way: str, text: str, folder: Path):
    source = way.removesuffix(" in a file")
    refused = pytest.raises(
        CommandError, match=rf"^{source}.* is empty; expected the URL of a database"
    )
    with named(way, text) as chosen, refused:
        command.upgrade(chosen, "head")

    assert not list(folder.glob("*.db"))


@pytest.mark.parametrize(
    ("run", "standing"),
    [
        ("-x url", "DATABASE_URL"),
        ("-x url", "sqlalchemy.url in a file"),
        ("the attribute url", "set_main_option"),
        ("the attribute connection, an Engine", "DATABASE_URL"),
        ("the attribute connection, a Connection", "sqlalchemy.url in a file"),
    ],
)
def test_name_for_the_run_overrides_configuration_and_environment(
    run: str, standing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    wanted, other = (f"sqlite:///{tmp_path}/{name}.db" for name in ("wanted", "other"))

    with named(standing, other) as lower, named(run, wanted) as upper:
        if url := lower.get_main_option("sqlalchemy.url"):
            upper.set_main_option("sqlalchemy.url", url)
        command.upgrade(upper, "head")

    assert is_migrated(wanted)
    assert not Path(f"{tmp_path}/other.db").exists()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("sqlalchemy.url in a file", "DATABASE_URL"),
        ("-x url", "the attribute url"),
        ("the attribute url", "the attribute connection, an Engine"),
        ("-x url", "the attribute connection, a Connection"),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_two_names_of_one_rank_must_be_equal(first: str, second: str, same: bool, tmp_path: Path):
    here, there = (f"sqlite:///{tmp_path}/{name}.db" for name in ("here", "there"))
    with named(first, here) as chosen, named(second, here if same else there) as other:
        chosen.attributes.update(other.attributes)
        if same:
            command.upgrade(chosen, "head")
        else:
            with pytest.raises(
                CommandError, match=r"two databases are named: .*here.* and .*there"
            ):
                command.upgrade(chosen, "head")

    assert (is_migrated(here), is_migrated(there)) == (same, False)


def test_two_names_are_shown_without_their_passwords(capfd: pytest.CaptureFixture[str]):
    with (
        named("DATABASE_URL", f"postgresql://a:{SECRET}@one/plans"),
        pytest.raises(CommandError, match="@one/plans by DATABASE_URL") as refused,
    ):
        command.upgrade(by_main_option(f"postgresql://a:{SECRET}@two/plans"), "head")

    assert "@two/plans by sqlalchemy.url" in str(refused.value)
    assert "s3cret" not in str(refused.value) + "".join(capfd.readouterr())


def test_same_url_given_twice_with_x_is_one_name_and_another_is_refused(tmp_path: Path):
    url = f"sqlite:///{tmp_path}/a.db"
    command.upgrade(config(f"url={url}", f"url={url}"), "head")

    with pytest.raises(CommandError, match="url is 'given twice, with values that differ'"):
        command.upgrade(config(f"url={url}", f"url={url}2"), "head")


def test_percent_that_stands_alone_in_a_file_is_refused_without_the_password():
    Path("alembic.ini").write_text(
        f"[alembic]\nsqlalchemy.url = postgresql://me:{SECRET}@host/plans\n"
    )

    with pytest.raises(CommandError, match=r"sqlalchemy\.url has a % .* expected %%") as refused:
        command.upgrade(config(ini=Path("alembic.ini")), "head")

    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "given", ["sqlite://", create_async_engine("sqlite+aiosqlite://")], ids=["text", "AsyncEngine"]
)
def test_connection_of_another_type_is_refused(given):
    with pytest.raises(
        CommandError, match=r"attribute connection is of the type .* expected a Conn"
    ):
        command.upgrade(config(connection=given), "head")


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite+aiosqlite://",
        "sqlite:///file:/shared?uri=true&vfs=memdb",
        "sqlite:///file::memory:?uri=true",
        "sqlite:///file:shared?uri=true&mode=memory&cache=shared",
    ],
)
@pytest.mark.parametrize("run", [command.current, lambda c: command.upgrade(c, "head")])
def test_database_in_memory_is_refused_by_url_since_it_ends_with_the_run(url: str, run):
    with pytest.raises(CommandError, match="is a database in memory, which ends with this run"):
        run(config(url=url))


def test_url_of_an_engine_that_is_not_supported_is_refused():
    engine = create_engine("mysql+pymysql://", creator=lambda: None, module=_Dbapi())

    with pytest.raises(CommandError, match=r"'mysql\+pymysql', which is not supported"):
        command.upgrade(config(connection=engine), "head")


class _Dbapi:
    """Stands in for a driver that is not installed."""

    paramstyle = "format"
    Error = Exception
    __version__ = "1.0"
