"""A service that counts who asks for it; it is built into an image by its Dockerfile."""

from __future__ import annotations

import http.server
import itertools
from pathlib import Path

visits = itertools.count(1)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers everything with the count."""

    def do_GET(self) -> None:
        """Answer."""
        body = f"{Path('greeting').read_text().strip()} {next(visits)}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
