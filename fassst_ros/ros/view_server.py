"""The HTTP side of the page: the newest picture of each camera and one JSON state; no ROS in here.

    GET /                               the page (view_page.html); it loads nothing from elsewhere
    GET /state                          everything but pictures, as JSON (see view.py)
    GET /picture?camera=NAME&after=N    the newest JPEG, as soon as its number X-Number is not N;
                                        204 if none came within WAIT seconds, 404 for no such camera

A client asks for its next picture when it has shown the last one. So a slow client gets fewer
pictures, and neither another client nor the node waits for it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fassst_ros.types import ConfigError

#: How long a request waits for a newer picture, in seconds.
WAIT = 5.0
#: A camera is watched if a client asked for its picture in the last so many seconds.
WATCHED = 10.0
#: A connection without progress for so many seconds is closed.
PATIENCE = 20.0
#: Connections at a time; a browser uses up to six.
CONNECTIONS = 100

_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    # Other sites that the same browser shows must not get at the pictures.
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; connect-src 'self'; img-src blob: data:; "
    "script-src 'unsafe-inline'; style-src 'unsafe-inline'; frame-ancestors 'none'",
}


class Pictures:
    """The newest picture of one camera, for any number of clients. Thread-safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._number, self._data = 0, b""
        self._asked = -WATCHED
        self.arrival = 0.0

    @property
    def watched(self) -> bool:
        """Whether a client asked for a picture of late."""
        return time.monotonic() - self._asked < WATCHED

    def put(self, data: bytes) -> None:
        """A new picture, as a JPEG file."""
        with self._changed:
            self._number, self._data, self.arrival = self._number + 1, data, time.monotonic()
            self._changed.notify_all()

    def other_than(self, number: int, timeout: float) -> tuple[int, bytes] | None:
        """(number, JPEG) of the newest picture, once it is not picture `number`; None after `timeout` s."""
        self._asked = time.monotonic()
        with self._changed:
            # Not "newer": the numbers start again with a restarted server.
            if self._changed.wait_for(lambda: self._number not in (0, number), timeout):
                return self._number, self._data
        return None


class Board:
    """What the page shows: `state` (JSON) and the pictures of each camera, both replaced as a whole."""

    def __init__(self) -> None:
        self.state = b"{}"
        self.pictures: dict[str, Pictures] = {}


class PageServer(ThreadingHTTPServer):
    """Serves a Board in threads of its own from `start` to `stop`.

    host: address to listen on; port: 0 takes a free one. url: where the page is.
    Raises ConfigError if it cannot listen there.
    """

    daemon_threads = True  # a client that waits must not hold up the end of the process
    block_on_close = False
    request_queue_size = 32

    def __init__(self, board: Board, host: str, port: int) -> None:
        self.board = board
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        if ":" in host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as err:
            raise ConfigError(
                f"cannot serve the page on {host} port {port}: {err}. Is another page served there? "
                "Choose with --port (0: a free one) and --host"
            ) from err
        self.local = _is_loopback(host)
        name = f"[{host}]" if ":" in host else host
        everywhere = host in ("0.0.0.0", "::")
        self.url = f"http://{socket.gethostname() if everywhere else name}:{self.server_address[1]}/"
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), daemon=True)

    def start(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def stop(self) -> None:
        """End at once; requests in progress are cut off."""
        self.shutdown()
        self._thread.join()
        self.server_close()
        with self._lock:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give the connection a thread, or close it if there are too many."""
        with self._lock:
            accepted = len(self._connections) < CONNECTIONS
            if accepted:
                self._connections.add(request)
        if accepted:
            super().process_request(request, client_address)
        else:
            super().shutdown_request(request)

    def shutdown_request(self, request: Any) -> None:
        """The end of a connection."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients may go away at any moment; everything else is shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE

    def do_GET(self) -> None:
        if self.server.local and not _is_loopback(_name(self.headers.get("Host", ""))):
            # A site may give its own name our address (DNS rebinding) to read what is local.
            self._send(HTTPStatus.FORBIDDEN, b"this page is for its own machine\n", "text/plain")
            return
        url = urlsplit(self.path)
        if url.path == "/":
            page = resources.files("fassst_ros.ros").joinpath("view_page.html").read_bytes()
            self._send(HTTPStatus.OK, page, "text/html; charset=utf-8")
        elif url.path == "/state":
            self._send(HTTPStatus.OK, self.server.board.state, "application/json")
        elif url.path == "/picture":
            self._send_picture(parse_qs(url.query))
        else:
            self._send(HTTPStatus.NOT_FOUND, b"nothing here\n", "text/plain")

    def _send_picture(self, query: dict[str, list[str]]) -> None:
        pictures = self.server.board.pictures.get(query.get("camera", [""])[0])
        after = query.get("after", ["0"])[0]
        if pictures is None or not (after.isascii() and after.isdecimal() and len(after) < 20):
            self._send(HTTPStatus.NOT_FOUND, b"no such camera\n", "text/plain")
            return
        newest = pictures.other_than(int(after), WAIT)
        if newest is None:
            self._send(HTTPStatus.NO_CONTENT, b"", "image/jpeg")
        else:
            self._send(HTTPStatus.OK, newest[1], "image/jpeg", {"X-Number": str(newest[0])})

    def _send(self, status: HTTPStatus, body: bytes, kind: str, more: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, **(more or {})}.items():
            self.send_header(name, value)
        if status != HTTPStatus.NO_CONTENT:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: several requests a second are not worth a line each."""


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    return host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
