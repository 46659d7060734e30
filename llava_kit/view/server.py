"""The page's own small server: loopback only, GET only, and no word of a request ever becomes a path."""

from __future__ import annotations

import json
import secrets
import socket
import sys
from collections.abc import Callable, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from ..errors import LlavaKitError, SampleError, first_line
from .gallery import Gallery
from .page import live_page, part_of_page
from .search import Scans, read_number, read_query
from .spreads import Spreads

LOOPBACK = "127.0.0.1"
# Names by which a browser may ask for us. Another one is a stranger's page whose name was pointed at this machine.
HOSTS = (LOOPBACK, "localhost")
# Rows of one answer: the list shows 50.
MOST_ROWS = 200
# Letters of an address: longer than any search somebody types.
MOST_LETTERS = 4096
# Seconds that a browser may take to say what it wants, and to read an answer.
PATIENCE = 30
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Answer(NamedTuple):
    """What goes back: a status, a type, bytes; `cached`: the browser may keep it while the server lives."""

    status: int
    type: str
    body: bytes
    cached: bool = False


class Refusal(LlavaKitError):
    """A request that is not answered, with its HTTP status."""

    def __init__(self, status: HTTPStatus, message: str):
        self.status = status
        super().__init__(message)


class ViewServer(ThreadingHTTPServer):
    """Serves a gallery on 127.0.0.1 until `shutdown`; `address` is what to open.

    Raises LlavaKitError for a port that cannot be had.
    """

    daemon_threads = True
    request_queue_size = 64  # a browser asks for six things at once, and people open tabs
    allow_reuse_address = sys.platform != "win32"  # there it would share a port with another program

    def __init__(self, gallery: Gallery, port: int = 0):
        if not 0 <= port <= 65535:
            raise LlavaKitError(f"port: found {port}; expected 0 (any free one) to 65535")
        self.gallery = gallery
        self.session = secrets.token_urlsafe(9)  # in the pictures' addresses, so that no older server's pictures are shown
        self.scans, self.spreads = Scans(gallery), Spreads(gallery)
        try:
            super().__init__((LOOPBACK, port), Handler)
        except OSError as error:
            raise LlavaKitError(
                f"port {port} of {LOOPBACK} cannot be used: {error.strerror}; leave it out to take a free one"
            ) from None
        self.address = f"http://{LOOPBACK}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        # The library's own asks the name service who 127.0.0.1 is, which may take seconds and leaves the machine.
        if self.allow_reuse_address:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = LOOPBACK, self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: a browser that went away is no fault, and faults of ours are answered where they happen."""

    def server_close(self) -> None:
        self.scans.stop()
        self.spreads.stop()
        super().server_close()


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: ViewServer
    timeout = PATIENCE
    server_version, sys_version = "llava-kit", ""

    def do_GET(self) -> None:
        self._send(self._answer())

    def _refuse(self) -> None:
        self._send(_told(HTTPStatus.METHOD_NOT_ALLOWED, f"found {self.command}; expected GET"), {"Allow": "GET"})

    do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = _refuse

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to the person who looks."""

    def _answer(self) -> Answer:
        try:
            self._check_host()
            if len(self.path) > MOST_LETTERS:
                raise Refusal(
                    HTTPStatus.REQUEST_URI_TOO_LONG, f"found {len(self.path)} letters; expected {MOST_LETTERS} at most"
                )
            address = urlsplit(self.path)
            page = PAGES.get(address.path)
            if page is None:
                raise Refusal(HTTPStatus.NOT_FOUND, f"there is no such page; there are {', '.join(PAGES)}")
            try:
                fields = dict(parse_qsl(address.query, keep_blank_values=True, max_num_fields=20))
            except ValueError as error:
                raise Refusal(HTTPStatus.BAD_REQUEST, str(error)) from None
            return page(self.server, fields)
        except Refusal as refusal:
            return _told(refusal.status, str(refusal))
        except IndexError:
            return _told(
                HTTPStatus.NOT_FOUND, f"found no such sample or picture; samples are 0 to {self.server.gallery.count - 1}"
            )
        except SampleError as error:
            return _told(HTTPStatus.UNPROCESSABLE_ENTITY, error.message, error.reason)
        except LlavaKitError as error:
            return _told(HTTPStatus.BAD_REQUEST, str(error))
        except Exception as error:
            return _told(HTTPStatus.INTERNAL_SERVER_ERROR, f"this is a bug in llava-kit or a plugin: {first_line(error)}")

    def _check_host(self) -> None:
        hosts = self.headers.get_all("Host") or []
        name = hosts[0].rpartition(":")[0] or hosts[0] if len(hosts) == 1 else ""
        if name.lower() not in HOSTS:
            raise Refusal(HTTPStatus.FORBIDDEN, f"this page answers to {' and '.join(HOSTS)} alone")

    def _send(self, answer: Answer, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(answer.status)
        for name, value in {
            "Content-Type": answer.type,
            "Content-Length": str(len(answer.body)),
            "Content-Security-Policy": CSP,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "private, max-age=3600" if answer.cached else "no-store",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)


def _told(status: int, message: str, reason: str = "refused") -> Answer:
    return _json({"error": {"reason": reason, "message": message}}, status)


def _json(value: Any, status: int = HTTPStatus.OK) -> Answer:
    return Answer(status, "application/json", json.dumps(value, allow_nan=False).encode("ascii"))


def _number(fields: Mapping[str, str], name: str, default: int | None = None) -> int:
    text = fields.get(name)
    if text is None and default is not None:
        return default
    return read_number(name, text or "")


def _page(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    return Answer(HTTPStatus.OK, "text/html; charset=utf-8", live_page(server.gallery.name).encode("utf-8"))


def _style(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    return Answer(HTTPStatus.OK, "text/css; charset=utf-8", part_of_page("css").encode("utf-8"))


def _script(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    return Answer(HTTPStatus.OK, "text/javascript; charset=utf-8", part_of_page("js").encode("utf-8"))


def _about(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    return _json({**server.gallery.about(), "session": server.session})


def _rows(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    """Lines of the list: `start`, `count`, and the fields of a query. `total` grows while a search goes on."""
    start, count = _number(fields, "start", 0), min(_number(fields, "count", 50), MOST_ROWS)
    gallery, query = server.gallery, read_query(fields)
    if query.is_empty:
        numbers = list(range(start, min(start + count, gallery.count)))
        total, done, finished = gallery.count, gallery.count, True
    else:
        scan = server.scans.of(query)
        finished, done = scan.finished, scan.done  # before the matches: what is said to be done has been found
        numbers, total = scan.numbers(start, count), len(scan.matches)
    return _json(
        {
            "rows": [gallery.row(number) for number in numbers],
            "total": total,
            "done": done,
            "of": gallery.count,
            "finished": finished,
        }
    )


def _sample(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    return _json(server.gallery.detail(_number(fields, "number")))


def _picture(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    number, index, frame = _number(fields, "number"), _number(fields, "picture", 0), _number(fields, "frame", 0)
    body, type = server.gallery.picture(number, index, frame)
    return Answer(HTTPStatus.OK, type, body, cached=True)


def _spreads(server: ViewServer, fields: Mapping[str, str]) -> Answer:
    server.spreads.start()
    return _json(server.spreads.told())


PAGES: dict[str, Callable[[ViewServer, Mapping[str, str]], Answer]] = {
    "/": _page,
    "/view.css": _style,
    "/view.js": _script,
    "/about": _about,
    "/rows": _rows,
    "/sample": _sample,
    "/picture": _picture,
    "/spreads": _spreads,
}
"""All that there is; whatever else is asked for is not found."""
