"""What holds for every operation: there and back, repeated, beside writers, offline."""

from __future__ import annotations

from support.online import client, never_blocked, script
from support.toy_operations import PAIRS, perform, rename_word, rows
from support.toys import execute, make_toys, structure


def test_operations_and_their_opposites_restore_the_table_and_are_idempotent(toy_url: str):
    before, held = structure(toy_url), rows(toy_url)
    for name, pair in PAIRS.items():
        made = perform(toy_url, pair.there)
        assert made != before, name
        assert perform(toy_url, pair.there) == made, name

        assert perform(toy_url, pair.back) == before, name
        assert perform(toy_url, pair.back) == before, name
        assert rows(toy_url) == held, name
        assert perform(toy_url, pair.there) == made, name
        perform(toy_url, pair.back)


def test_writers_do_not_wait_for_operations(postgresql_url: str):
    make_toys(postgresql_url, rows=60_000)
    # Rows of `box` are locked by writers of `toy`, once there is a foreign key.
    insert = (
        "INSERT INTO toy (id, size, box_id, {}, doc) SELECT max(id) + 1, 1, 1, 'b', 'd' FROM toy"
    )
    execute(postgresql_url, "ALTER TABLE toy ADD COLUMN doc2 text")
    for pair in PAIRS.values():
        column = "doc2" if pair.there is rename_word else "word"
        with never_blocked(postgresql_url, insert.format(column)):
            perform(postgresql_url, pair.there)
            perform(postgresql_url, pair.back)

        execute(postgresql_url, "UPDATE toy SET word = 'x' WHERE word IS NULL")


def test_scripts_of_operations_make_what_the_operations_make(server_url: str):
    for name, pair in PAIRS.items():
        for act, opposite in (pair, pair[::-1]):
            online = perform(server_url, act)
            perform(server_url, opposite)

            with script() as (op, written):
                act(op)
            with client(server_url, autocommit=False) as connection:
                connection.execute(written.getvalue().encode())

            assert structure(server_url) == online, name
