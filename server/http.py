"""HTTP for people and monitors, on a port of its own: metrics, health and the console page.

Invariants: read-only; at most `HTTP_CONNECTIONS` at once, each for at most `HTTP_TIMEOUT_S` of silence; the page
loads nothing from elsewhere.
"""

import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6, socket
from typing import Any, ClassVar

from server.limits import HTTP_CONNECTIONS, HTTP_TIMEOUT_S

_POLL_S = 0.05  # how soon a stop is noticed


@dataclass(frozen=True)
class Page:
    """An answer: status, type of the content, content."""

    status: int
    content_type: str
    body: bytes


Pages = Mapping[str, Callable[[], Page]]


class HttpServer:
    """Serves pages by path; bound when made, answering once started.

    Args:
        address: host and port; port 0 = any.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, address: tuple[str, int]) -> None:
        class Handler(_Handler):
            served: ClassVar[Pages] = {}

        class Server(_BoundedServer):
            address_family = AF_INET6 if ":" in address[0] else _BoundedServer.address_family

        self._handler = Handler
        try:
            self._server = Server(address, Handler)
        except OSError as error:
            raise OSError(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}") from None
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="freshet-http", daemon=True
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that are bound."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def start(self, pages: Pages) -> None:
        """Serve pages, by path, in a thread."""
        self._handler.served = pages
        self._thread.start()

    def stop(self) -> None:
        """Stop serving and give the port back."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()


class _BoundedServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = HTTP_CONNECTIONS

    def __init__(self, *arguments: Any) -> None:
        self._places = threading.BoundedSemaphore(HTTP_CONNECTIONS)
        super().__init__(*arguments)

    def process_request(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: socket | tuple[bytes, socket], client_address: Any) -> None:
        """A caller that went away is no news; anything else is."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    served: ClassVar[Pages] = {}
    timeout = HTTP_TIMEOUT_S
    protocol_version = "HTTP/1.1"
    server_version = "freshet"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer with the page of the path."""
        make = self.served.get(self.path.partition("?")[0])
        page = make() if make else Page(404, "text/plain; charset=utf-8", b"not found\n")
        self.send_response(page.status)
        self.send_header("Content-Type", page.content_type)
        self.send_header("Content-Length", str(len(page.body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        # The page is self-contained: whatever it is made to show, it can load and send nothing elsewhere.
        self.send_header(
            "Content-Security-Policy",
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'",
        )
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(page.body)

    do_HEAD = do_GET  # noqa: N815 - the name that the base class calls

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Scrapes every few seconds are no news."""
