from __future__ import annotations

import io
import json
import shutil
import socket
import ssl
import subprocess
import threading
import time
from contextlib import closing, suppress

import pytest
from llava_rows import source_of, turns
from PIL import Image

from llava_kit.convert.block import Settings
from llava_kit.convert.fetch import Fetcher, is_public
from llava_kit.convert.run import convert
from llava_kit.errors import SampleError

OURS, INNER = "127.0.0.2", "127.0.0.1"  # the tests' server, and what stands for the reader's own network


def picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), "teal").save(buffer, "JPEG")
    return buffer.getvalue()


JPEG = picture()


def answer(body: bytes = JPEG, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers] + (
        [] if any("ength" in line for line in headers) else [f"Content-Length: {len(body)}"]
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Server:
    """Answers each path as `pages` say: bytes, a list of them (one a request), or a function that is given the socket."""

    def __init__(self, context: ssl.SSLContext | None = None):
        self.pages, self.requests, self.context = {}, [], context
        self.listener = socket.create_server(("0.0.0.0", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection):
        with suppress(OSError), closing(connection):
            if self.context is not None:
                connection = self.context.wrap_socket(connection, server_side=True)
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(4096) or b"\r\n\r\n"
            if not request.startswith(b"GET"):  # somebody speaks TLS: he is left waiting
                time.sleep(1)
                return
            self.requests.append(request.decode("latin-1"))
            page = self.pages[request.split()[1].decode("latin-1")]
            if isinstance(page, list):
                page = page.pop(0)
            if callable(page):
                page(connection)
            else:
                connection.sendall(page)
            connection.close()


@pytest.fixture
def server():
    server = Server()
    yield server
    server.listener.close()


def names(host, port):
    """`pictures.test` is our server, `inner.test` a machine that nobody may reach; the rest as it is."""
    return {"pictures.test": [OURS], "inner.test": [INNER], "both.test": [OURS, INNER]}.get(host) or [host]


def fetcher(**changes) -> Fetcher:
    return Fetcher(**{"resolve": names, "allowed": OURS.__eq__, "pause": 0.0, "seconds": 5.0, **changes})


def refusal(url, **changes) -> SampleError:
    with pytest.raises(SampleError) as caught:
        fetcher(**changes).fetch(url)
    return caught.value


def test_a_picture_comes_byte_for_byte(server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody is there, and nobody is asked
    server.pages["/a%20b.jpg?x=1"] = answer()
    assert fetcher().fetch(f"http://pictures.test:{server.port}/a b.jpg?x=1") == JPEG
    lines = server.requests[0].splitlines()
    assert lines[0] == "GET /a%20b.jpg?x=1 HTTP/1.1"
    assert f"Host: pictures.test:{server.port}" in lines
    assert not any(line.lower().startswith(("cookie", "authorization", "referer")) for line in lines)


def test_chunks(server):
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    parts = [JPEG[:10], JPEG[10:300], JPEG[300:]]
    server.pages["/"] = head + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    assert fetcher().fetch(f"http://pictures.test:{server.port}") == JPEG


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1:248:1893:25c8:1946", True),
        *((text, False) for text in ("127.0.0.1", "127.9.9.9", "10.0.0.1", "10.255.255.255", "172.16.0.1", "192.168.1.1")),
        *((text, False) for text in ("169.254.169.254", "100.64.0.1", "0.0.0.0", "255.255.255.255", "224.0.0.1", "240.0.0.1")),
        *(
            (text, False)
            for text in ("192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd12::1", "ff02::1")
        ),
        *((text, False) for text in ("::ffff:10.0.0.1", "::ffff:127.0.0.1", "64:ff9b::a00:1", "2002:a00:1::", "2001:db8::1")),
        *((text, False) for text in ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1::1", "fec0::1", "3fff::1")),
        *((text, False) for text in ("192.88.99.1", "2606:2800::5efe:a00:1", "2606:2800::200:5efe:8.8.8.8")),
    ],
)
def test_which_addresses_are_public(address, public):
    assert is_public(address) == public


@pytest.fixture
def no_sockets(monkeypatch):
    def never(*arguments, **_):
        raise AssertionError(f"a socket was opened: {arguments}")

    monkeypatch.setattr("socket.socket.connect", never)
    monkeypatch.setattr("socket.create_connection", never)


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "localhost", "169.254.169.254", "[::1]", "10.1.2.3", "192.168.0.1", "0.0.0.0", "[::ffff:10.0.0.1]"),
        *("2130706433", "0x7f.1", "127.1", "[fe80::1]"),  # other ways to write such addresses
    ],
)
def test_machines_of_the_own_network_are_never_asked(host, no_sockets):
    with pytest.raises(SampleError, match=r"public addresses only|is not known") as caught:
        Fetcher(pause=0.0).fetch(f"http://{host}/latest/meta-data/")
    assert caught.value.reason in ("url_not_allowed", "fetch_failed")


@pytest.mark.parametrize(
    "found", [["10.0.0.1"], ["93.184.216.34", "10.0.0.1"], ["93.184.216.34", "::1"], ["::ffff:127.0.0.1"], []]
)
def test_names_that_lead_inside_are_never_asked(found, no_sockets):
    with pytest.raises(SampleError, match="public addresses only") as caught:
        Fetcher(resolve=lambda host, port: found).fetch("https://pictures.example/a.jpg")
    assert caught.value.reason == "url_not_allowed"


def test_a_name_is_looked_up_once_and_asked_at_the_address_that_was_checked(server, monkeypatch):
    """A name server could answer with a public address when it is checked, and with another a moment later."""
    server.pages["/"] = answer()
    answers = [[OURS], [INNER], [INNER]]
    connected = []
    connect = socket.create_connection
    monkeypatch.setattr("socket.create_connection", lambda to, **more: connected.append(to) or connect(to, **more))
    assert fetcher(resolve=lambda host, port: answers.pop(0)).fetch(f"http://rebind.test:{server.port}/") == JPEG
    assert connected == [(OURS, server.port)]
    assert len(answers) == 2


def test_redirects_are_walked_under_the_same_rules(server):
    port = server.port
    server.pages |= {
        "/1": answer(b"", "302 Found", "Location: /2"),
        "/2": answer(b"", "301 Moved", f"Location: http://pictures.test:{port}/3"),
        "/3": answer(b"", "307 Temporary", "Location: a.jpg"),
        "/a.jpg": answer(),
        "/0": answer(b"", "302 Found", "Location: /1"),
        "/inner": answer(b"", "302 Found", f"Location: http://inner.test:{port}/a.jpg"),
        "/address": answer(b"", "302 Found", f"Location: http://127.0.0.1:{port}/a.jpg"),
        "/both": answer(b"", "302 Found", f"Location: http://both.test:{port}/a.jpg"),
        "/file": answer(b"", "302 Found", "Location: file:///etc/passwd"),
        "/keys": answer(b"", "302 Found", "Location: http://me:secret@pictures.test/"),
        "/none": answer(b"", "302 Found", "Location: http://["),
    }
    base = f"http://pictures.test:{port}"
    assert fetcher().fetch(f"{base}/1") == JPEG
    assert "more than 3 redirects" in str(refusal(f"{base}/0"))
    before = len(server.requests)
    for path in ("inner", "address", "both", "file", "keys", "none"):
        error = refusal(f"{base}/{path}")
        assert error.reason == "url_not_allowed"
        assert "secret" not in str(error)
    assert len(server.requests) == before + 6  # none was asked but for the redirect itself


def test_a_chunk_of_less_than_nothing(server):
    server.pages["/"] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc"
    error = refusal(f"http://pictures.test:{server.port}/")
    assert (error.reason, "no HTTP" in str(error)) == ("fetch_failed", True)


def test_bodies_that_are_too_large(server):
    def endless(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + JPEG)
        for _ in range(1000):
            connection.sendall(bytes(1 << 16))

    sent = []

    def told(connection):
        connection.sendall(answer(JPEG, "200 OK", "Content-Length: 1000000000"))
        with suppress(OSError):
            for _ in range(1000):
                connection.sendall(bytes(1 << 20))
                sent.append(1)

    server.pages |= {"/endless": endless, "/told": told}
    for path in ("endless", "told"):
        error = refusal(f"http://pictures.test:{server.port}/{path}", max_bytes=300_000)
        assert error.reason == "too_many_bytes"
    assert len(sent) < 50  # no more than lies in the buffers of the two sockets


@pytest.mark.parametrize("where", ["head", "body", "handshake"])
def test_slow_drips_end_at_the_deadline(server, where):
    def drip(connection):
        with suppress(OSError):
            connection.sendall(
                b"HTTP/1.1 200 OK\r\n" if where == "head" else answer(JPEG[:100], "200 OK", "Content-Length: 9000")
            )
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.02)

    server.pages["/"] = drip
    scheme = "https" if where == "handshake" else "http"
    start = time.monotonic()
    error = refusal(f"{scheme}://pictures.test:{server.port}/", seconds=0.3)
    assert time.monotonic() - start < 2.0
    assert error.reason == "fetch_failed"
    assert "longer than 0.3 s" in str(error)


@pytest.mark.parametrize(
    ("body", "reason", "told"),
    [
        (b"<!DOCTYPE html><html>please log in", "unreadable_image", "is HTML"),
        (b"%PDF-1.7 ....", "format_not_allowed", "is PDF"),
        (b"hello", "unreadable_image", "no picture"),
        (b"", "unreadable_image", "no picture"),
    ],
)
def test_the_first_bytes_say_what_it_is(server, body, reason, told):
    server.pages["/a.jpg"] = answer(body, "200 OK", "Content-Type: image/jpeg")
    error = refusal(f"http://pictures.test:{server.port}/a.jpg")
    assert (error.reason, told in str(error)) == (reason, True)


def test_faults_that_may_pass_are_tried_again(server):
    url = f"http://pictures.test:{server.port}/"
    cut = answer(JPEG[:100], "200 OK", f"Content-Length: {len(JPEG)}")
    server.pages["/"] = [answer(b"", "503 Busy"), cut, answer()]
    assert fetcher().fetch(url) == JPEG
    server.pages["/"] = [answer(b"", "429 Slow down")] * 3
    assert "answers 429 (3 times)" in str(refusal(url))
    server.pages["/"] = [b"", cut, b"what?"]
    assert refusal(url).reason == "fetch_failed"
    server.pages["/"] = [answer(b"", "404 Not Found"), answer()]
    assert "answers 404 Not Found" in str(refusal(url))
    server.pages["/"] = [answer(JPEG, "200 OK", "Content-Encoding: gzip")]
    assert "compressed" in str(refusal(url))


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("https://me:secret@pictures.test/a.jpg?key=secret", "user name or a password"),
        ("ftp://pictures.test/secret", "expected http:// or https://"),
        ("http:///secret.jpg", "expected http:// or https://"),
        ("http://[::1/secret", "is no URL"),
        ("http://pictures.test:99999/", "is no URL"),
        ("gopher://inner.test:70/_x", "expected http"),
    ],
)
def test_addresses_that_are_none(url, told, no_sockets):
    error = refusal(url)
    assert (error.reason, told in str(error)) == ("url_not_allowed", True)
    assert "me:secret" not in str(error)
    assert "key=secret" not in str(error)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_certificates_are_those_of_the_name(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    more = ["-subj", "/CN=x", "-addext", "subjectAltName=DNS:pictures.test", "-keyout", key, "-out", certificate]
    subprocess.run([*command, *more], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    asked = []
    context.sni_callback = lambda connection, name, context: asked.append(name)
    server = Server(context)
    server.pages |= {"/a.jpg": answer(), "/down": answer(b"", "302 Found", "Location: http://pictures.test/a.jpg")}
    ours = ssl.create_default_context(cafile=str(certificate))
    names = {"pictures.test": [OURS], "other.test": [OURS]}
    safe = fetcher(context=ours, resolve=lambda host, port: names[host])
    assert safe.fetch(f"https://pictures.test:{server.port}/a.jpg") == JPEG
    assert asked == ["pictures.test"]
    with pytest.raises(SampleError, match="no safe connection"):
        safe.fetch(f"https://other.test:{server.port}/a.jpg")
    with pytest.raises(SampleError, match="from https to http"):
        safe.fetch(f"https://pictures.test:{server.port}/down")
    assert "no safe connection" in str(refusal(f"https://pictures.test:{server.port}/a.jpg"))  # signed by nobody known
    server.listener.close()


def url_rows(tmp_path, port):
    urls = [f"http://pictures.test:{port}/{name}" for name in ("a.jpg", "gone.jpg", "page.jpg")]
    rows = [{"id": url[-8:], "image": url, "conversations": turns()} for url in [*urls, "http://169.254.169.254/x?token=abc"]]
    content = [{"type": "image_url", "image_url": {"url": urls[0]}}, {"type": "text", "text": "What?"}]
    rows.append({"id": "m", "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "A."}]})
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    return source_of(tmp_path / "rows.json")


def test_convert_fetches_when_asked(tmp_path, server):
    pages = {"/a.jpg": answer(), "/gone.jpg": answer(b"", "404 Not Found"), "/page.jpg": answer(b"<html>no")}
    server.pages |= pages
    source = url_rows(tmp_path, server.port)
    done = convert(source, 5, tmp_path / "out", Settings(fetcher=fetcher()))
    assert (done.samples, dict(done.bad)) == (2, {"fetch_failed": 1, "unreadable_image": 1, "url_not_allowed": 1})
    (written,) = (path for path in (tmp_path / "out" / "images").rglob("*.jpg"))
    assert written.read_bytes() == JPEG
    assert "token" not in (tmp_path / "out" / "rejected.jsonl").read_text()


def test_nothing_is_fetched_without_being_asked(tmp_path, no_sockets, monkeypatch):
    monkeypatch.setattr("socket.getaddrinfo", lambda *arguments, **_: pytest.fail("a name was looked up"))
    done = convert(url_rows(tmp_path, 80), 5, tmp_path / "out")
    assert (done.samples, dict(done.bad)) == (0, {"url_not_allowed": 5})
    kept = (tmp_path / "out" / "rejected.jsonl").read_text()
    assert "--allow-urls" in kept
    assert "token" not in kept
