"""The page's HTTP side: what each request gets, and that clients do not hold each other up."""

from __future__ import annotations

import http.client
import re
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from fassst_ros.ros import view_server
from fassst_ros.ros.view_server import Board, PageServer, Pictures
from fassst_ros.types import ConfigError


@pytest.fixture
def board() -> Board:
    made = Board()
    made.pictures = {"": Pictures(), "left/image": Pictures()}
    return made


@pytest.fixture
def server(board: Board) -> Iterator[PageServer]:
    made = PageServer(board, "127.0.0.1", 0)
    made.start()
    yield made
    made.stop()


def get(
    server: PageServer, path: str, headers: dict[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    try:
        connection.request("GET", path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_page_loads_nothing_from_elsewhere(server: PageServer) -> None:
    status, headers, body = get(server, "/")
    page = body.decode()
    assert status == 200
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data:,"]
    assert "//" not in re.sub(r"\s// .*", "", page), "an address besides JavaScript comments"
    assert 'name="viewport"' in page
    assert "default-src 'none'" in headers["Content-Security-Policy"]


def test_state(server: PageServer, board: Board) -> None:
    board.state = b'{"node": "/segment_node"}'
    status, headers, body = get(server, "/state")
    assert (status, headers["Content-Type"], body) == (200, "application/json", board.state)
    assert headers["Cache-Control"] == "no-store"


def test_newest_picture_of_the_camera_that_was_asked_for(server: PageServer, board: Board) -> None:
    for data in (b"first", b"second"):
        board.pictures["left/image"].put(data)
    status, headers, body = get(server, "/picture?camera=left/image&after=0")
    assert (status, headers["X-Number"], body) == (200, "2", b"second")
    assert headers["Content-Type"] == "image/jpeg"
    assert board.pictures["left/image"].watched
    assert not board.pictures[""].watched


def test_a_request_waits_for_the_next_picture(server: PageServer, board: Board) -> None:
    pictures = board.pictures[""]
    pictures.put(b"old")
    came: list[bytes] = []
    client = threading.Thread(target=lambda: came.append(get(server, "/picture?camera=&after=1")[2]))
    client.start()
    while not pictures.watched:
        time.sleep(0.01)
    assert came == []
    pictures.put(b"new")
    client.join(60)
    assert came == [b"new"]


def test_numbers_of_a_server_before_do_not_keep_a_client_waiting(server: PageServer, board: Board) -> None:
    board.pictures[""].put(b"picture")
    assert get(server, "/picture?after=123456")[1]["X-Number"] == "1"


def test_nothing_came(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_server, "WAIT", 0.01)
    assert get(server, "/picture?camera=&after=0")[0] == 204


@pytest.mark.parametrize(
    "path",
    [
        "/picture?camera=right",
        "/picture?after=-1",
        "/picture?after=x",
        "/picture?after=" + 5000 * "9",
        "/favicon.ico",
        "/../view.py",
        "/x",
    ],
)
def test_what_is_not_there(server: PageServer, path: str) -> None:
    assert get(server, path)[0] == 404


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:8090", 200), ("[::1]:8090", 200), ("evil.example:8090", 403), ("", 403)],
)
def test_other_sites_cannot_reach_a_local_page_by_a_name_of_theirs(
    server: PageServer, host: str, status: int
) -> None:
    assert get(server, "/", {"Host": host})[0] == status


def test_a_page_for_everybody_has_any_name(board: Board) -> None:
    server = PageServer(board, "0.0.0.0", 0)
    server.start()
    try:
        assert get(server, "/", {"Host": "robot.example"})[0] == 200
        assert not server.local
    finally:
        server.stop()


def test_a_client_that_does_not_read_holds_up_nobody(server: PageServer, board: Board) -> None:
    pictures = board.pictures[""]
    pictures.put(bytes(20_000_000))  # more than the buffers of a connection take
    with socket.create_connection(server.server_address[:2]) as slow:
        slow.sendall(b"GET /picture?camera=&after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert slow.recv(12) == b"HTTP/1.1 200"  # its answer is on the way
        for number in range(2, 5):
            pictures.put(b"picture %d" % number)
            assert get(server, f"/picture?after={number - 1}")[2] == b"picture %d" % number


def test_too_many_connections_are_closed(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(view_server, "CONNECTIONS", 1)
    server = PageServer(board, "127.0.0.1", 0)
    server.start()
    try:
        with socket.create_connection(server.server_address[:2]) as first:
            first.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert first.recv(12) == b"HTTP/1.1 200"
            with socket.create_connection(server.server_address[:2], timeout=60) as second:
                assert second.recv(1) == b""
    finally:
        server.stop()


def test_the_end_cuts_connections_off(board: Board) -> None:
    server = PageServer(board, "127.0.0.1", 0)
    server.start()
    with socket.create_connection(server.server_address[:2], timeout=60) as client:
        client.sendall(b"GET /state HTTP/1.1\r\nHost: localhost\r\n\r\n")
        while not client.recv(4096).endswith(board.state):
            pass
        server.stop()
        assert client.recv(1) == b""


def test_a_taken_port_is_named(server: PageServer, board: Board) -> None:
    port = server.server_address[1]
    with pytest.raises(ConfigError, match=rf"127\.0\.0\.1 port {port}: .*--port"):
        PageServer(board, "127.0.0.1", port)
    with pytest.raises(ConfigError, match="port 70000"):
        PageServer(board, "127.0.0.1", 70000)
