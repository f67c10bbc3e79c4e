"""The service of `test_two_services.py`: counts visits in PostgreSQL and tells the number."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer

import psycopg


class Visits(BaseHTTPRequestHandler):
    """``GET /visit`` counts and answers with the number of visits; ``GET /`` says hello."""

    def do_GET(self) -> None:
        """Answer with plain text."""
        answer = str(count_visit()) if self.path == "/visit" else "hello"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())


def count_visit() -> int:
    with psycopg.connect("host=database user=postgres dbname=postgres") as connection:
        connection.execute("create table if not exists visit (at timestamptz default now())")
        connection.execute("insert into visit default values")
        (number,) = connection.execute("select count(*) from visit").fetchone() or (0,)
    return int(number)


HTTPServer(("", 8000), Visits).serve_forever()
