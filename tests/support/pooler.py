"""A pooler that gives each transaction another session of the server, as pgbouncer can."""

from __future__ import annotations

import itertools
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_SESSIONS = 2


@contextmanager
def transaction_pooler(url: str) -> Iterator[str]:
    """Stand between clients and the server at *url*; yield the URL to connect to."""
    server = url.split("host=")[1]
    with (
        tempfile.TemporaryDirectory(prefix="pool") as folder,
        socket.socket(socket.AF_UNIX) as door,
    ):
        door.bind(f"{folder}/.s.PGSQL.5432")
        door.listen()
        opened: list[socket.socket] = []
        threading.Thread(target=_let_in, args=(door, server, opened), daemon=True).start()
        yield url.replace(server, folder)
        door.shutdown(socket.SHUT_RDWR)
        for session in opened:  # they outlive their clients
            session.close()


def _let_in(door: socket.socket, server: str, opened: list[socket.socket]) -> None:
    while True:
        try:
            client, _ = door.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(client, server, opened), daemon=True).start()


def _serve(client: socket.socket, server: str, opened: list[socket.socket]) -> None:
    sessions = [socket.socket(socket.AF_UNIX) for _ in range(_SESSIONS)]
    opened += sessions
    try:
        hello = _read(client, struct.unpack("!i", size := _read(client, 4))[0] - 4)
        for session in sessions:
            session.connect(f"{server}/.s.PGSQL.5432")
            session.sendall(size + hello)
        greetings = [_answer(session)[0] for session in sessions]
        client.sendall(greetings[0])
        for session in itertools.cycle(sessions):
            status = b"T"
            while status != b"I":  # in a transaction it stays where it is
                session.sendall(_request(client))
                answer, status = _answer(session)
                client.sendall(answer)
    except (ConnectionError, OSError):
        pass
    finally:
        client.close()


def _request(client: socket.socket) -> bytes:
    """Read what a client sends before it waits for an answer."""
    request = b""
    while True:
        kind, message = _message(client)
        request += message
        if kind in (b"Q", b"S"):
            return request
        if kind == b"X":
            raise ConnectionError


def _answer(session: socket.socket) -> tuple[bytes, bytes]:
    """Read what the server says until it is ready, and whether it is in a transaction."""
    answer = b""
    while True:
        kind, message = _message(session)
        answer += message
        if kind == b"Z":
            return answer, message[-1:]


def _message(peer: socket.socket) -> tuple[bytes, bytes]:
    head = _read(peer, 5)
    return head[:1], head + _read(peer, struct.unpack("!i", head[1:])[0] - 4)


def _read(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            raise ConnectionError
        data += more
    return data
