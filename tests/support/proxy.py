"""A TCP proxy before a PostgreSQL server: it can fall silent, or change what the server says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from sqlalchemy import make_url


@dataclass
class Proxy:
    """A proxy that listens on a port of its own."""

    #: The database, by way of the proxy.
    url: str
    #: Cleared, nothing is passed on any more, and nothing is closed.
    passes: threading.Event = field(default_factory=threading.Event)
    #: How often the server was sent something by a client, and answered.
    answers: int = 0
    #: Of connections that were made before it, nothing is passed on.
    stopped: set[socket.socket] = field(default_factory=set)
    opened: list[socket.socket] = field(default_factory=list)

    def stop_former(self) -> None:
        """Pass nothing on any more of the connections that there are; new ones work."""
        self.stopped.update(self.opened)


@contextmanager
def tcp_proxy(
    url: str, change: Callable[[bytes], bytes] | None = None, *, port: int = 0
) -> Iterator[Proxy]:
    """
    Stand before the server at *url*, which listens on a local socket.

    *change* is given what the server sends, in pieces, and returns what the client gets. The
    *port* is a free one, unless it is given.
    """
    given = make_url(url)
    server = f"{given.query['host']}/.s.PGSQL.5432"
    with socket.create_server(("127.0.0.1", port)) as door:
        port = door.getsockname()[1]
        proxy = Proxy(
            given.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        )
        proxy.passes.set()

        asked: dict[socket.socket, bool] = {}

        def pass_on(
            source: socket.socket, target: socket.socket, changed: Callable[[bytes], bytes]
        ) -> None:
            with suppress(OSError):
                while data := source.recv(65536):
                    proxy.passes.wait()
                    if source in proxy.stopped:
                        continue
                    if source.family == socket.AF_INET:
                        asked[target] = True
                    elif asked.pop(source, False):
                        proxy.answers += 1
                    target.sendall(changed(data))
                proxy.passes.wait()
                target.shutdown(socket.SHUT_WR)

        def let_in() -> None:
            with suppress(OSError):
                while True:
                    client, _ = door.accept()
                    session = socket.socket(socket.AF_UNIX)
                    session.connect(server)
                    proxy.opened.extend((client, session))
                    for way in (
                        (client, session, bytes),
                        (session, client, change or bytes),
                    ):
                        threading.Thread(target=pass_on, args=way, daemon=True).start()

        thread = threading.Thread(target=let_in, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            door.shutdown(socket.SHUT_RDWR)
            thread.join(5)
            for one in proxy.opened:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            proxy.passes.set()
