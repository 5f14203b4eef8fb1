"""A gate on the way to an S3 server: it lets a number of writes pass and holds the next for ever.

With it a process can be killed between two writes of a library that has no hook there. Bytes go through
as they are, so signatures stay valid.
"""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlsplit

# A write comes within a second; only a broken test waits as long.
PATIENCE_SECONDS = 60


@dataclass(slots=True)
class Gate:
    """Stands on a port of its own. A request's head is taken to come in one piece, as clients send it."""

    server: tuple[str, int]
    listener: socket.socket
    _left: int = 1 << 30
    _below: str = ""
    _unanswered: int = 0
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _held: bool = False
    _ends: list[socket.socket] = field(default_factory=list)

    @classmethod
    @contextmanager
    def before(cls, endpoint: str) -> Iterator[Self]:
        parts = urlsplit(endpoint)
        assert parts.hostname is not None
        assert parts.port is not None
        with socket.create_server(("127.0.0.1", 0)) as listener:
            gate = cls((parts.hostname, parts.port), listener)
            threading.Thread(target=gate._accept, daemon=True).start()
            yield gate
            for end in gate._ends:
                end.close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.listener.getsockname()[1]}"

    def let_pass(self, writes: int, *, below: str) -> None:
        """Hold the write after so many PUTs of keys that contain `below`, and all that come later."""
        self._left, self._below = writes, below

    def wait_until_shut(self) -> None:
        """Returns when a write is held and those that passed are answered."""
        with self._changed:
            shut = self._changed.wait_for(lambda: self._held and not self._unanswered, PATIENCE_SECONDS)
        assert shut, "no further write came to the gate"

    def _accept(self) -> None:
        with suppress(OSError):  # closed at the end of the test
            while True:
                client, _ = self.listener.accept()
                server = socket.create_connection(self.server)
                self._ends += [client, server]
                pending = [False]  # whether this connection waits for the answer to a counted write
                threading.Thread(target=self._forth, args=(client, server, pending), daemon=True).start()
                threading.Thread(target=self._back, args=(server, client, pending), daemon=True).start()

    def _forth(self, client: socket.socket, server: socket.socket, pending: list[bool]) -> None:
        with suppress(OSError):
            while some := client.recv(1 << 16):
                if self._is_write(some):
                    if not self._passes():
                        return
                    pending[0] = True
                server.sendall(some)
            server.shutdown(socket.SHUT_WR)

    def _back(self, server: socket.socket, client: socket.socket, pending: list[bool]) -> None:
        with suppress(OSError):
            while some := server.recv(1 << 16):
                client.sendall(some)
                if pending[0] and not some.startswith(b"HTTP/1.1 100"):
                    pending[0] = False
                    with self._changed:
                        self._unanswered -= 1
                        self._changed.notify_all()
            client.shutdown(socket.SHUT_WR)

    def _is_write(self, some: bytes) -> bool:
        head = re.match(rb"PUT (\S+) HTTP", some)
        return head is not None and bool(self._below) and self._below.encode() in head[1]

    def _passes(self) -> bool:
        with self._changed:
            if self._held or self._left == 0:
                self._held = True
                self._changed.notify_all()
                return False
            self._left -= 1
            self._unanswered += 1
            return True
