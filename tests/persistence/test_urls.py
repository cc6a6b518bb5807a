"""URLs are read as people and libpq write them; what cannot be right is refused unseen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from sqlalchemy import NullPool, make_url
from sqlalchemy.engine import URL

from cleveragents_plans.cli import main
from cleveragents_plans.cli.statuses import ExitStatus
from cleveragents_plans.persistence import (
    DatabaseUrlError,
    database_url,
    open_engine,
    without_password,
)
from support.databases import database_at
from support.revisions import HEAD


@pytest.mark.parametrize(
    ("given", "driver"),
    [
        ("sqlite:///plans.db", "sqlite"),
        ("sqlite+pysqlite:///plans.db", "sqlite"),
        ("sqlite+aiosqlite:///plans.db", "sqlite"),
        ("postgres://u@h/d", "postgresql+psycopg"),
        ("postgresql://u@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg://u@h/d", "postgresql+psycopg"),
        ("postgresql+psycopg_async://u@h/d", "postgresql+psycopg"),
    ],
)
def test_url_leads_to_one_driver_per_engine(given: str, driver: str):
    assert database_url(given).drivername == driver
    assert database_url(database_url(given)) == database_url(given)


@pytest.mark.parametrize(
    "given",
    [
        "plans.db",
        "",
        "postgresql://u:p@ss@h:port/d",
        "sqlite:///plans?.db",
        "postgres://h/d?a",
        5,
        b"x",
    ],
)
def test_text_that_is_no_url_is_refused_without_repeating_it(given):
    with pytest.raises(DatabaseUrlError, match="cannot be read") as caught:
        database_url(given)

    assert "p@ss" not in str(caught.value)


@pytest.mark.parametrize("path", ["plans.db", "/srv/plans.db", ":memory:", ""])
@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        ("mode=ro", "mode"),
        ("mode=ro&uri=true", "mode"),
        ("uri=false&immutable=1&cache=shared", "cache, immutable"),
        ("timeout=5&vfs=unix", "vfs"),
        ("nolock=1&secret=hunter2", "***, nolock"),
        ("psow=0", "psow"),
        ("modeof=x", "modeof"),
    ],
)
def test_a_parameter_that_nobody_would_read_is_refused(path, parameters, named):
    with pytest.raises(DatabaseUrlError) as refused:
        database_url(f"sqlite:///{path}?{parameters}")

    assert f"has a parameter ({named}) that is read only of a path with file:" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "parameters", ["timeout=5", "uri=true", "check_same_thread=false", "audit_to=x&plugin=audit"]
)
def test_a_parameter_of_the_driver_or_a_plugin_is_kept(parameters):
    assert str(database_url(f"sqlite:///plans.db?{parameters}")).endswith(parameters)


@pytest.mark.parametrize("parameters", ["", "?mode=ro", "?uri=false"])
def test_uri_of_sqlite_is_refused_where_it_would_be_read_as_the_name_of_a_file(parameters):
    with pytest.raises(DatabaseUrlError, match=r"no uri=true; expected .*file:plans.db\?uri=true"):
        database_url(f"sqlite:///file:plans.db{parameters}")

    assert database_url("sqlite:///file:plans.db?uri=TRUE").query == {"uri": "TRUE"}
    assert database_url("sqlite:///./file:plans.db").database == "./file:plans.db"


def test_another_engine_is_refused():
    with pytest.raises(DatabaseUrlError, match="'mysql', which is not supported"):
        database_url("mysql://u:secret@h/d")


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", "{} ", "\t{}", " {}\n\n"])
@pytest.mark.parametrize(
    "url", ["sqlite:///plans.db", "postgresql://u:p@h/d", "postgres://h/d?a=b"]
)
def test_blanks_and_line_ends_around_a_url_are_left_out(around: str, url: str):
    assert database_url(around.format(url)) == database_url(url)


# The password of each is correct@horse/battery, or a part of it.
WRONG = [
    "postgresql://app:correct@horse-battery@127.0.0.1:5999/plans",
    "postgresql://app:correct@horse/battery@127.0.0.1:5999/plans",
    "postgresql://app:@correct@horse@host/plans",
    "postgresql://app:correct@horse:battery@host/plans",
    "postgresql://app:correct@horse battery@host/plans",
    "postgresql://app:correct@horse?battery@host/plans",
    "postgresql://app:correct@horse#battery@host/plans",
    "postgresql://app:correct@horse?a=battery@host/plans",
    "postgresql://app:correct@horse,battery@h1:5432,h2:5433/plans",
    "sqlite://app:correct@horse@host/plans.db",
    "sqlite://app:correct@horse/plans.db",
]


@pytest.mark.parametrize("url", WRONG)
def test_password_that_is_not_encoded_is_never_shown(url: str, capfd: pytest.CaptureFixture[str]):
    with pytest.raises(DatabaseUrlError) as refused:
        database_url(url)
    status = main(["upgrade", "--url", url])

    out, err = capfd.readouterr()
    assert status == 1
    assert "%40" in str(refused.value)
    for word in ("correct", "horse", "battery"):
        assert word not in str(refused.value) + out + err


@pytest.mark.parametrize(
    "url",
    ["postgresql://a:correct@horse@h/d", "postgresql://a:correct@horse/b@h/d", "sqlite://a:b@c/d"],
)
def test_url_that_looks_wrong_is_shown_as_its_engine_only(url: str):
    assert without_password(make_url(url)) == f"{url.partition(':')[0]}://***"


@pytest.mark.parametrize(
    "parameter",
    [
        "oauth_client_secret=hunter2",
        "scram_client_key=hunter2",
        "scram_server_key=hunter2",
        "pwd=hunter2",
        "passwd=hunter2",
        "options=-c%20my.password%3Dhunter2",
        "options=-c%20search_path%3Dhunter2",
        "keepalives=hunter2",
        "user=u:hunter2",
        "user=:hunter2",
        "sslmode=hunter2",
        "target_session_attrs=hunter2",
        "port=hunter2",
        "host=h1&host=h2%40hunter2",
        "dbname=password%3Dhunter2",
        "anything=hunter2",
        "hunter2=anything",
    ],
)
def test_secret_in_a_parameter_is_not_shown(parameter: str):
    shown = without_password(database_url(f"postgresql://u@h/d?{parameter}"))

    assert "hunter2" not in shown
    assert "***" in shown


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u%3Ahunter2@h/d",
        "postgresql://u;hunter2@h/d",
        "postgresql://u%2Fhunter2:p@h/d",
        URL.create("postgresql", username="u=hunter2", host="h", database="d"),
    ],
)
def test_password_that_is_encoded_with_the_user_is_not_shown(url: str | URL):
    assert without_password(database_url(url)) == "postgresql+psycopg://u:***@h/d"


def test_user_that_begins_with_a_separator_is_not_shown():
    assert without_password(database_url("postgresql://%3Ahunter2@h/d")) == (
        "postgresql+psycopg://h/d"
    )


@pytest.mark.parametrize(
    "parameter", ["key=hunter2", "password=hunter2", "mode=hunter2", "vfs=hunter2"]
)
def test_secret_in_a_url_of_sqlite_is_not_shown(parameter: str):
    assert "hunter2" not in without_password(make_url(f"sqlite:///plans.db?{parameter}"))
    uri = URL.create("sqlite", database=f"file:plans.db?{parameter}")
    # SQLAlchemy 2.1 encodes the mark.
    assert unquote(without_password(uri)) == "sqlite:///file:plans.db?***"


def test_what_tells_which_database_it_is_is_shown():
    query = "host=h1&host=%2Frun%2Fpg&port=1,2&service=plans.of-today&sslmode=verify-full"

    for url in (
        f"postgresql+psycopg://u@/d?{query}&target_session_attrs=primary&user=me",
        "sqlite:///file:plans.db?mode=ro&uri=true",
        "sqlite:///file:plans.db?uri=true&vfs=unix-excl",
    ):
        assert make_url(without_password(make_url(url))) == make_url(url)


@pytest.mark.parametrize(
    "part",
    ["u@/d?sslmode=xhunter2", "u@/d?keepalives=hunter2", "u@/d?hunter_two=hunter2",
     "u%3Ahunter2@/d?", "/d?user=u:hunter2", "u@/d?connect_timeout=hunter2",
     "u@/d?prepare_threshold=hunter2", "u@/d?sslrootcert=/hunter2&sslmode=verify-full"],
)  # fmt: skip
def test_what_a_driver_says_of_a_url_has_no_part_that_is_hidden(
    part: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    status = main(["current", "--url", f"postgresql://{part}&host={tmp_path}"])

    out, err = capfd.readouterr()
    assert status in (ExitStatus.REFUSED, ExitStatus.UNREACHABLE)
    assert "hunter2" not in out + err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    "variable",
    ["PGSSLMODE=hunter2", "PGPORT=hunter2", "PGPORT=5432:hunter2", "PGSSLNEGOTIATION=hunter2",
     "PGCONNECT_TIMEOUT=hunter2", "PGTARGETSESSIONATTRS=hunter2", "PGREQUIREAUTH=hunter2",
     "PGGSSENCMODE=x hunter2", "PGSERVICE=plans:hunter2", "PGSERVICEFILE=/hunter2",
     "PGTZ=hunter2", "PGTZ=Europe/hunter2"],
)  # fmt: skip
def test_what_a_driver_says_of_the_environment_has_no_part_that_may_be_a_secret(
    variable: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("PGHOST", str(tmp_path))
    if "FILE" in variable:
        monkeypatch.setenv("PGSERVICE", "plans")
    monkeypatch.setenv(*variable.split("=", 1))

    status = main(["current", "--url", "postgresql:///d"])

    out, err = capfd.readouterr()
    assert status in (ExitStatus.REFUSED, ExitStatus.UNREACHABLE)
    assert "hunter2" not in out + err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize(
    ("url", "environment", "named"),
    [
        ("postgresql://", {"PGSERVICE": "plans"}, " (with PGSERVICE=plans of the environment)"),
        ("postgresql://h:1/d", {"PGHOST": "db1", "PGPORT": "2", "PGDATABASE": "other"}, ""),
        (
            "postgresql://?port=2",
            {"PGHOST": "db1", "PGPORT": "3", "PGDATABASE": "plans", "PGUSER": "app"},
            " (with PGHOST=db1, PGDATABASE=plans, PGUSER=app of the environment)",
        ),
        (
            "postgresql:///d?service=plans",
            {"PGSERVICE": "x", "PGUSER": "app:hunter2", "PGPASSWORD": "hunter2"},
            " (with PGUSER=*** of the environment)",
        ),
    ],
)
def test_line_of_the_database_names_what_the_environment_adds_to_the_url(
    url: str, environment: dict[str, str], named: str, capfd, monkeypatch: pytest.MonkeyPatch
):
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    main(["current", "--url", url])

    out, err = capfd.readouterr()
    shown = without_password(database_url(url))
    assert f"database: {shown}{named}\n" in err, err
    assert "hunter2" not in out + err


@pytest.mark.parametrize(
    ("variable", "told"),
    [
        ("PGTZ=Mars/Phobos", "Mars/Phobos"),
        ("PGTARGETSESSIONATTRS=standby", "standby"),
        ("PGOPTIONS=-c TimeZone=Mars/Phobos", "Mars/Phobos"),
    ],
)
def test_what_a_server_says_of_the_environment_has_the_words_that_are_no_secret(
    variable: str, told: str, tmp_path: Path, capfd, monkeypatch: pytest.MonkeyPatch
):
    with database_at(HEAD, "postgresql-18", tmp_path) as url, monkeypatch.context() as during:
        during.setenv(*variable.split("=", 1))
        status = main(["current", "-q", "--url", url])

    assert status == ExitStatus.REFUSED
    assert told in capfd.readouterr().err.split("cannot be opened", 1)[1]


def test_name_of_a_database_that_libpq_takes_for_a_connection_string_is_refused():
    with pytest.raises(DatabaseUrlError, match="name of a database with = in it") as refused:
        database_url("postgresql://u@h/password=hunter2")
    assert "hunter2" not in str(refused.value)


def test_secrets_of_a_url_are_masked():
    url = database_url("postgresql://u:secret@h/d?sslpassword=secret&sslmode=require")

    assert without_password(url) == (
        "postgresql+psycopg://u:***@h/d?sslmode=require&sslpassword=***"
    )


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@h/plans\x00",
        "postgresql://u:p@h/pl\nans",
        "postgresql://u\n:p@h/plans",
        "postgresql:// u:p@h/plans",
        "postgresql://u:p@ h/plans",
        "postgresql://u:p@h\t/plans",
        "sqlite:/// plans.db",
        "sqlite:///pl\nans.db",
        URL.create("postgresql", username="u", host="h", database="plans\n"),
        URL.create("sqlite", database="plans.db "),
    ],
)
def test_blank_or_control_character_within_a_url_is_refused(url: str | URL):
    with pytest.raises(DatabaseUrlError, match="the database URL has a "):
        database_url(url)


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("postgresql://u:p@h1:5432,h2:5433/d", "h1,h2", "5432,5433"),
        ("postgres://h1,h2/d", "h1,h2", ","),
        ("postgresql+psycopg://u@h1,h2:5433/d?sslmode=require", "h1,h2", ",5433"),
        ("postgresql://u:p@[::1]:5432,h2/d", "::1,h2", "5432,"),
        ("postgresql://%2Ftmp,h2:5433/d", "/tmp,h2", ",5433"),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/d", "/var/run/postgresql", None),
        ("postgresql:///d?host=h1:1&host=h2:2", "h1,h2", "1,2"),
    ],
)
def test_hosts_are_read_as_libpq_reads_them(url: str, host: str, port: str | None):
    read = database_url(url)
    _, parameters = open_engine(read).dialect.create_connect_args(read)

    assert (parameters["host"], parameters.get("port")) == (host, port)
    assert database_url(read.render_as_string(hide_password=False)) == read
    assert database_url(without_password(read).replace("***", "p")).host == read.host


def test_folder_of_a_socket_and_a_list_of_hosts_are_connected_to(
    postgresql_url: str, capfd: pytest.CaptureFixture[str]
):
    url = make_url(postgresql_url)
    folder = quote(str(url.query["host"]), safe="")

    for hosts in (folder, f"%2Fnowhere,{folder}"):
        given = f"postgresql://{url.username}:s3cret@{hosts}/{url.database}"
        assert main(["upgrade", "--url", given]) == 0
        with open_engine(given, poolclass=NullPool).connect() as connection:
            assert connection.exec_driver_sql("SELECT count(*) FROM v3_plans").scalar() == 0

    assert "s3cret" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("end", ["\n", "\r\n", " "])
def test_file_has_the_name_that_was_meant(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///plans.db{end}")

    assert main(["upgrade", "--create"]) == 0

    assert [file.name for file in tmp_path.iterdir()] == ["plans.db"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p%40ss%2Fword@db-1.example.org:5432/plans",
        "postgresql://u:p@münchen.example/plans",
        "postgresql://u:p@[fe80::1%25eth0]:5432/plans",
        "postgresql://u:p@db_1/plans",
        "postgresql://u:p:q%23r@h/plans of today",
        "sqlite:////home/me@work/plans of today.db",
        "sqlite:///file:plans.db?mode=ro&uri=true",
        "sqlite://",
    ],
)
def test_url_that_is_right_is_read(url: str):
    assert database_url(url).set(drivername="x") == make_url(url).set(drivername="x")


def test_path_in_a_locale_that_cannot_hold_it_is_refused_in_one_line(tmp_path: Path):
    program = [sys.executable, "-m", "cleveragents_plans", "upgrade", "--create", "--url"]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment = {**os.environ, **locale}

    done = subprocess.run(
        [*program, f"sqlite:///{tmp_path}/größe.db"],
        capture_output=True,
        text=True,
        env=environment,
    )

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "PYTHONUTF8=1" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_relative_path_below_a_deleted_folder_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()

    with pytest.raises(DatabaseUrlError, match="working directory of this process, which was"):
        database_url("sqlite:///plans.db")
    assert database_url("sqlite:////srv/plans.db").database == "/srv/plans.db"
    assert database_url("sqlite://").database in (None, "", ":memory:")


def test_folder_of_a_socket_is_shown_once():
    url = database_url("postgresql://u:secret@%2Fvar%2Frun/plans")

    assert (url.host, url.query["host"]) == (None, "/var/run")
    assert without_password(url) == "postgresql+psycopg://u:***@/plans?host=%2Fvar%2Frun"
