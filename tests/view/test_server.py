from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection

import pytest

from llava_kit.errors import LlavaKitError
from llava_kit.view.server import LOOPBACK, MOST_ROWS, PAGES, ViewServer


@pytest.fixture(scope="module")
def server(gallery):
    with ViewServer(gallery) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server, path, method="GET", host=None):
    connection = HTTPConnection(LOOPBACK, server.server_port, timeout=20)
    try:
        connection.request(method, path, headers={"Host": host} if host is not None else {})
        answer = connection.getresponse()
        return answer, answer.read()
    finally:
        connection.close()


def told(server, path):
    answer, body = ask(server, path)
    return answer.status, json.loads(body)


def test_the_page_and_its_parts(server):
    for path in ("/", "/view.css", "/view.js", "/about"):
        answer, body = ask(server, path)
        assert answer.status == 200, path
        assert body
    answer, body = ask(server, "/")
    assert "toy &lt;rows&gt;" in body.decode()
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_it_listens_on_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.address == f"http://127.0.0.1:{server.server_port}/"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "127.0.0.1.evil.example", "[::1]", "0.0.0.0", "localhost.", "a@localhost"]
)
def test_another_name_is_refused(server, host):
    for path in ("/", "/rows", "/sample?number=0", "/picture?number=0"):
        assert ask(server, path, host=host)[0].status == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9999", "127.0.0.1"])
def test_our_names_are_answered_also_through_a_tunnel(server, host):
    assert ask(server, "/about", host=host)[0].status == 200


def test_no_name_or_two_names_are_refused(server):
    for lines in (b"GET /about HTTP/1.0\r\n\r\n", b"GET /about HTTP/1.1\r\nHost: localhost\r\nHost: evil\r\n\r\n"):
        with socket.create_connection((LOOPBACK, server.server_port), timeout=20) as client:
            client.sendall(lines)
            assert b" 403 " in client.recv(4096)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../../etc/passwd",
        "/%2e%2e/view.js",
        "/view.js/",
        "/templates/view.js",
        "/picture/0",
        "/rows.json",
        "/about%00",
    ],
)
def test_there_is_nothing_else(server, path):
    status, body = told(server, path)
    assert status == 404
    assert body["error"]["message"].startswith("there is no such page")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/sample?number=120", 404),
        ("/sample?number=999999999999", 404),
        ("/sample?number=-1", 400),
        ("/sample?number=1e3", 400),
        ("/sample?number=" + "9" * 400, 400),
        ("/sample", 400),
        ("/picture?number=0&picture=1", 404),
        ("/picture?number=0&picture=../../etc/passwd", 400),
        ("/picture?number=13&frame=99", 422),
        ("/picture?number=8", 422),
        ("/picture?number=9", 422),
        ("/picture?number=11", 422),
        ("/rows?start=x", 400),
        ("/rows?pictures=3", 400),
        ("/rows?" + "&".join(f"a{n}=1" for n in range(30)), 400),
        ("/rows?text=" + "a" * 5000, 414),
    ],
)
def test_what_cannot_be_answered_is_told(server, path, status):
    found, body = told(server, path)
    assert found == status
    assert body["error"]["message"]
    assert "Traceback" not in str(body)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"])
def test_only_get(server, method):
    answer, body = ask(server, "/about", method)
    assert (answer.status, answer.headers["Allow"]) == (405, "GET")
    assert (method == "HEAD") == (body == b"")


def test_a_method_that_nobody_knows(server):
    assert ask(server, "/about", "BREW")[0].status == 501


def test_rows_of_a_page(server):
    status, body = told(server, "/rows?start=100&count=50")
    assert status == 200
    assert [row["number"] for row in body["rows"]] == list(range(100, 120))
    assert (body["total"], body["finished"]) == (120, True)
    assert told(server, "/rows?start=999999999999")[1]["rows"] == []
    assert len(told(server, "/rows?count=999999")[1]["rows"]) == min(120, MOST_ROWS)


def test_a_search_goes_on_in_the_background(server):
    path = "/rows?source=regions&text=tall&count=1&start=1"
    while not (body := told(server, path)[1])["finished"]:
        assert body["of"] == 120
    assert (body["total"], [row["number"] for row in body["rows"]]) == (2, [3])


def test_histograms_are_counted_in_the_background(server):
    while not (body := told(server, "/spreads")[1])["finished"]:
        assert body["done"] <= body["rows"]
    assert body["done"] == 120


def test_pictures_come_by_number(server):
    answer, body = ask(server, "/picture?number=0&v=any")
    assert (answer.status, answer.headers["Content-Type"], body[:4]) == (200, "image/png", b"\x89PNG")
    assert ask(server, "/picture?number=13&frame=2")[0].status == 200


def test_many_at_once(server):
    paths = ["/sample?number=0", "/rows", "/picture?number=7&picture=1", "/rows?text=plain", "/spreads"] * 8
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda path: ask(server, path)[0].status, paths))
    assert statuses == [200] * len(paths)


def test_one_who_says_nothing_holds_up_nobody(server):
    with socket.create_connection((LOOPBACK, server.server_port)) as silent:
        silent.sendall(b"GET /ab")
        assert ask(server, "/about")[0].status == 200


def test_every_page_is_tried():
    assert {
        path.split("?")[0] for path in ("/", "/view.css", "/view.js", "/about", "/rows", "/sample", "/picture", "/spreads")
    } == set(PAGES)


def test_a_port_that_is_taken(server, gallery):
    with pytest.raises(LlavaKitError, match=f"port {server.server_port} of 127.0.0.1 cannot be used"):
        ViewServer(gallery, server.server_port)


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none(gallery, port):
    with pytest.raises(LlavaKitError, match="expected 0"):
        ViewServer(gallery, port)
