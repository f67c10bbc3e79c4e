"""An application: an HTTP server that keeps its entries in Redis."""

from __future__ import annotations

import os
from http.server import BaseHTTPRequestHandler, HTTPServer

import redis


class Guestbook(BaseHTTPRequestHandler):
    """``POST /`` adds the body to the book, ``GET /`` returns all entries."""

    def do_POST(self) -> None:
        """Add an entry."""
        entry = self.rfile.read(int(self.headers["Content-Length"]))
        _book().rpush("entries", entry)
        self._answer(204, b"")

    def do_GET(self) -> None:
        """Return the entries, one on each line."""
        self._answer(200, b"\n".join(_book().lrange("entries", 0, -1)))  # type: ignore[arg-type]

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)


def _book() -> redis.Redis:
    return redis.Redis.from_url(os.environ["BOOK_URL"])


if __name__ == "__main__":
    HTTPServer(("", 8000), Guestbook).serve_forever()
