"""Pictures from addresses that rows name, for those who ask for it: from public machines alone, small, quick, and pictures.

An address in a stranger's file could point into the reader's own network, so a name is resolved once, every address that it has
must be public, and the connection goes to the very address that was looked at. Redirects are walked by hand under the same
rules. No proxy, no cookie, no key of the environment takes part.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import socket
import ssl
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import urljoin, urlsplit

from ..core.conversation import shown_url
from ..errors import SampleError
from ..image.header import PREFIX, format_of
from ..image.reader import DEFAULT

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_REDIRECTS = (301, 302, 303, 307, 308)
# Worth asking again: too many requests, and a server or gateway that is busy (RFC 9110, 15.6).
_BUSY = (429, 500, 502, 503, 504)
_BLOCK = 1 << 16
# IPv6 addresses with an IPv4 address in them, by which a private one could be reached (RFC 6052, NAT64).
_NAT64 = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))
# The relay of 6to4 (RFC 7526) and examples in books (RFC 9637): older Pythons call them global.
_NOWHERE = (ipaddress.IPv4Network("192.88.99.0/24"), ipaddress.IPv6Network("3fff::/20"))
# The last 64 bits of ISATAP (RFC 5214, 6.1) begin so; an IPv4 address follows.
_ISATAP = (0x00005EFE, 0x02005EFE)


def resolve(host: str, port: int) -> list[str]:
    """The addresses that a name has."""
    return [str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]


def is_public(text: str) -> bool:
    """Whether an address is one that everybody on the internet can reach; private, local and reserved ones are not."""
    address: Address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        # What hides an IPv4 address is held to that one; the old tunnels (6to4, Teredo) are refused, nobody needs them.
        if address.ipv4_mapped is not None:
            return is_public(str(address.ipv4_mapped))
        if address.sixtofour is not None or address.teredo is not None or any(address in net for net in _NAT64):
            return False
        if address.is_site_local or (int(address) >> 32) & 0xFFFFFFFF in _ISATAP:
            return False
    if any(address in net for net in _NOWHERE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


@dataclass(frozen=True)
class Fetcher:
    """`fetch(url)`: the bytes of a picture file. Bounds: bytes of a picture, seconds for one with all its redirects.

    `formats` are what the first bytes may say. `resolve` and `allowed` can be replaced, for a resolver or rules of one's own.
    """

    max_bytes: int = 32 * 2**20
    seconds: float = 30.0
    redirects: int = 3
    attempts: int = 3
    pause: float = 1.0
    formats: tuple[str, ...] = DEFAULT.formats
    resolve: Callable[[str, int], list[str]] = field(default=resolve, repr=False)
    allowed: Callable[[str], bool] = field(default=is_public, repr=False)
    context: ssl.SSLContext | None = field(default=None, repr=False)

    def fetch(self, url: str) -> bytes:
        """The bytes. Raises `SampleError`: `url_not_allowed`, `fetch_failed`, `too_many_bytes`, `unreadable_image`, ..."""
        for attempt in range(self.attempts):
            try:
                return self._walk(url, time.monotonic() + self.seconds)
            except _Busy as error:
                if attempt + 1 == self.attempts:
                    raise _error("fetch_failed", url, f"{error} ({self.attempts} times)") from None
                time.sleep(self.pause * 2**attempt)
        raise AssertionError("unreachable")

    def _walk(self, url: str, deadline: float) -> bytes:
        """One attempt, through redirects."""
        at = url
        for _ in range(self.redirects + 1):
            try:
                found = self._get(at, url, deadline)
            except TimeoutError:
                raise _error("fetch_failed", url, f"took longer than {self.seconds:g} s") from None
            except ssl.SSLError as error:
                raise _error("fetch_failed", url, f"no safe connection ({error.reason or 'TLS'})") from None
            except (OSError, http.client.HTTPException) as error:
                raise _Busy(f"the connection failed ({type(error).__name__})") from None
            except ValueError:  # such as a chunk of -5 bytes
                raise _error("fetch_failed", url, "the server's answer is no HTTP") from None
            if isinstance(found, bytes):
                return found
            if _target(at, url).scheme == "https" and _target(found, url).scheme == "http":
                raise _error("url_not_allowed", url, "leads from https to http")
            at = found
        raise _error("url_not_allowed", url, f"leads through more than {self.redirects} redirects")

    def _get(self, at: str, url: str, deadline: float) -> bytes | str:
        """The body, or the address that it redirects to."""
        target = _target(at, url)
        address = self._address(target, url)
        connection = socket.create_connection((address, target.port), timeout=_left(deadline))
        with closing(connection):
            if target.scheme == "https":
                connection.settimeout(_left(deadline))
                context = self.context or _usual_context()
                connection = context.wrap_socket(connection, server_hostname=target.host)
            with closing(connection):
                connection.settimeout(_left(deadline))
                connection.sendall(target.request())
                response = http.client.HTTPResponse(_Timed(connection, deadline))  # type: ignore[arg-type]
                response.begin()
                if response.status in _REDIRECTS:
                    return _joined(at, response.getheader("Location") or "", url)
                self._check_status(response, url)
                return self._body(response, url)

    def _address(self, target: _Target, url: str) -> str:
        """The address to connect to; every one that the name has is looked at."""
        try:
            found = self.resolve(target.host, target.port)
        except (OSError, UnicodeError) as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                raise _Busy(f"the name {target.host!r} cannot be looked up now") from None
            raise _error("fetch_failed", url, f"the name {target.host!r} is not known") from None
        wrong = [address for address in found if not self.allowed(address)]
        if wrong or not found:
            leads = f"{target.host!r} leads to {wrong[0] if wrong else 'nowhere'}"
            raise _error("url_not_allowed", url, f"{leads}; pictures are fetched from public addresses only")
        return found[0]

    def _check_status(self, response: http.client.HTTPResponse, url: str) -> None:
        if response.status in _BUSY:
            raise _Busy(f"the server answers {response.status}")
        if response.status != 200:
            told = http.client.responses.get(response.status, "")
            raise _error("fetch_failed", url, f"the server answers {response.status} {told}".rstrip())
        if (response.getheader("Content-Encoding") or "identity").lower() != "identity":
            raise _error("fetch_failed", url, "is sent compressed, which was not asked for")
        if (response.length or 0) > self.max_bytes:
            raise self._too_many(url, response.length)

    def _body(self, response: http.client.HTTPResponse, url: str) -> bytes:
        data = bytearray(response.read(PREFIX))
        format = format_of(bytes(data))
        if format not in self.formats:  # whatever the server calls it
            reason = "format_not_allowed" if format not in (None, "HTML") else "unreadable_image"
            raise _error(reason, url, f"is {format or 'no picture'}; expected {', '.join(self.formats)}")
        while block := response.read(_BLOCK):
            data += block
            if len(data) > self.max_bytes:
                raise self._too_many(url, None)
        if response.length:
            raise _Busy("the connection broke off")
        return bytes(data)

    def _too_many(self, url: str, count: int | None) -> SampleError:
        told = "more" if count is None else f"{count:,}"
        return _error("too_many_bytes", url, f"has {told} bytes; allowed are {self.max_bytes:,}")


@lru_cache(maxsize=1)
def _usual_context() -> ssl.SSLContext:
    """Certificates and names are checked, by the authorities of this machine; reading them takes 20 ms."""
    return ssl.create_default_context()


class _Busy(Exception):
    """A fault that may be gone a moment later."""


@dataclass(frozen=True)
class _Target:
    scheme: str
    host: str
    port: int
    path: str

    def request(self) -> bytes:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        lines = (
            f"GET {self.path} HTTP/1.1",
            f"Host: {host}{port}",
            "User-Agent: llava-kit",
            "Accept: image/*",
            "Accept-Encoding: identity",
            "Connection: close",
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


_PORTS = {"http": 80, "https": 443}


def _target(at: str, url: str) -> _Target:
    """The parts of an address, if it is one that may be asked."""
    try:
        parts = urlsplit(at)
        port = parts.port
    except ValueError:
        raise _error("url_not_allowed", url, "is no URL") from None
    if parts.scheme not in _PORTS or not parts.hostname:
        raise _error("url_not_allowed", url, f"is or leads to {shown_url(at)!r}; expected http:// or https:// and a name")
    if parts.username is not None or parts.password is not None:
        raise _error("url_not_allowed", url, "holds a user name or a password; nothing is fetched with those")
    try:
        host = parts.hostname.encode("idna").decode("ascii") if not parts.hostname.isascii() else parts.hostname
    except UnicodeError:
        raise _error("url_not_allowed", url, f"{parts.hostname!r} is no name of a machine") from None
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    quoted = "".join(letter if "!" <= letter <= "~" else "".join(f"%{byte:02X}" for byte in _bytes(letter)) for letter in path)
    return _Target(parts.scheme, host, port or _PORTS[parts.scheme], quoted)


def _joined(at: str, location: str, url: str) -> str:
    """The address that a redirect leads to."""
    try:
        return urljoin(at, location)
    except ValueError:
        raise _error("url_not_allowed", url, "leads to what is no URL") from None


def _bytes(letter: str) -> bytes:
    return letter.encode("utf-8", "replace")


class _Timed(io.RawIOBase):
    """A connection whose every read ends at the deadline: a server that sends a byte a second does not get longer."""

    def __init__(self, connection: Any, deadline: float):
        self.connection, self.deadline = connection, deadline

    def makefile(self, mode: str) -> io.BufferedReader:
        """What `HTTPResponse` asks a socket for."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.connection.settimeout(_left(self.deadline))
        return self.connection.recv_into(buffer)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _error(reason: str, url: str, message: str) -> SampleError:
    return SampleError(reason, f"picture {shown_url(url)!r}: {message}")
