"""Real registries on loopback, and a proxy before one that misbehaves as it is told."""

from __future__ import annotations

import base64
import contextlib
import http.client
import http.server
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from helpers.ports import free_port

USER, PASSWORD = "user", "secret"
_HASH = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"


@contextlib.contextmanager
def registry(extra: str = "", tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """A docker-registry of its own; yields ``127.0.0.1:PORT``."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "htpasswd").write_text(f"{USER}:{_HASH}\n")
        secure = f"\n  tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else ""
        (folder / "config.yml").write_text(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/data}}, delete: {{enabled: true}}}}\n"
            f"http:\n  addr: 127.0.0.1:{port}\n  secret: test{secure}\n"
            + extra.replace("HTPASSWD", str(folder / "htpasswd"))
        )
        with open(folder / "log", "wb") as log:
            child = subprocess.Popen(
                ["docker-registry", "serve", str(folder / "config.yml")], stdout=log, stderr=log
            )
        try:
            _await(port, child, folder / "log")
            yield f"127.0.0.1:{port}"
        finally:
            child.terminate()
            child.wait()


def _await(port: int, child: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 20
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if child.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"docker-registry does not start: {log.read_text()}")
        time.sleep(0.02)


def skopeo(*arguments: str, **environ: str) -> str:
    """Run skopeo; its output."""
    command = [shutil.which("skopeo") or "skopeo", "--insecure-policy", *arguments]
    with tempfile.TemporaryDirectory() as folder:
        # Else it looks for logins below /run/containers, which Podman makes for root alone.
        env = {"XDG_RUNTIME_DIR": folder, **os.environ, **environ}
        done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def upload(source: str, target: str, *options: str) -> None:
    """Copy an image to a registry without TLS."""
    skopeo("copy", "--quiet", "--dest-tls-verify=false", *options, source, f"docker://{target}")


@dataclass
class Rule:
    """What a proxy does to requests that match.

    Attributes:
        pattern: Of ``METHOD PATH``.
        times: How often; then it is as if it were not there.
        status, headers: Answered instead of passing the request on, if there is a status.
        cut_after: Bytes of the body after which the connection is closed.
        flip_at: The bit of this byte that is changed.
        body: Changes the whole body.
        answer_headers: Changed in the answer; None takes one away.
        delay_s: Waits before the answer.
        lost: Whether the request is passed on and its answer is lost.
    """

    pattern: str
    times: int = 1
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    flip_at: int | None = None
    body: Callable[[bytes], bytes] | None = None
    answer_headers: dict[str, str | None] = field(default_factory=dict)
    drop_request: tuple[str, ...] = ()
    delay_s: float = 0.0
    lost: bool = False


class Proxy:
    """A server on loopback that passes on to a registry, and notes what it was asked.

    Attributes:
        address: ``127.0.0.1:PORT``.
        requests: ``(method, path, headers)`` of each.
        answers: ``METHOD PATH: STATUS`` of each, in the order they were answered in, to explain a failure.
        sent_bytes: Of bodies, by path.
    """

    def __init__(self, upstream: str) -> None:
        self.upstream = upstream
        self.rules: list[Rule] = []
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers: list[str] = []
        self.sent_bytes: dict[str, int] = {}
        self._ruling = threading.Lock()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def rule(self, method: str, path: str) -> Rule | None:
        with self._ruling:  # requests come at the same time
            for rule in self.rules:
                if rule.times > 0 and re.search(rule.pattern, f"{method} {path}"):
                    rule.times -= 1
                    return rule
        return None

    def asked(self, pattern: str) -> int:
        """How many requests match."""
        return sum(
            bool(re.search(pattern, f"{method} {path}")) for method, path, _ in self.requests
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(proxy: Proxy) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            sent = self.rfile.read(length) if length else b""
            proxy.requests.append((self.command, self.path, dict(self.headers.items())))
            rule = proxy.rule(self.command, self.path) or Rule("")
            time.sleep(rule.delay_s)
            if rule.status:
                self._answer(rule.status, rule.headers, b'{"errors": []}', rule)
                return
            connection = http.client.HTTPConnection(proxy.upstream)
            connection.putrequest(self.command, self.path, skip_accept_encoding=True)
            for key, value in self.headers.items():
                if key.lower() not in ("host", *rule.drop_request):
                    connection.putheader(key, value)
            connection.endheaders(sent or None)
            response = connection.getresponse()
            answered = {
                key: value
                for key, value in response.getheaders()
                if key.lower() not in ("transfer-encoding", "connection")
            }
            if "Location" in answered:  # further requests come this way as well
                answered["Location"] = answered["Location"].replace(
                    f"http://{proxy.upstream}", f"http://{proxy.address}"
                )
            body = b"" if self.command == "HEAD" else response.read()
            connection.close()
            lost = " (lost)" if rule.lost else ""
            proxy.answers.append(f"{self.command} {self.path}: {response.status}{lost}")
            if rule.lost:
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer(response.status, answered, body, rule)

        def _answer(self, status: int, headers: dict[str, str], body: bytes, rule: Rule) -> None:
            if rule.body is not None:
                body = rule.body(body)
                headers = {**headers, "Content-Length": str(len(body))}
            if rule.flip_at is not None:
                changed = bytearray(body)
                changed[rule.flip_at] ^= 1
                body = bytes(changed)
            changed_headers: dict[str, str | None] = {**headers, **rule.answer_headers}
            self.send_response(status)
            for key, value in changed_headers.items():
                if value is not None and (key != "Content-Length" or self.command == "HEAD"):
                    self.send_header(key, value)
            if self.command != "HEAD":
                told = rule.answer_headers.get("Content-Length") or str(len(body))
                self.send_header("Content-Length", told)
            self.end_headers()
            if self.command == "HEAD":
                return
            cut = body if rule.cut_after is None else body[: rule.cut_after]
            with contextlib.suppress(OSError):
                self.wfile.write(cut)
            proxy.sent_bytes[self.path] = proxy.sent_bytes.get(self.path, 0) + len(cut)
            if rule.cut_after is not None:
                self.close_connection = True
                with contextlib.suppress(OSError):
                    self.connection.shutdown(socket.SHUT_RDWR)

        do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve

    return Handler


class Tunnel:
    """A proxy for https: takes CONNECT, and leads every name to one place.

    Attributes:
        asked: ``HOST:PORT`` of each tunnel, with its Proxy-Authorization.
    """

    def __init__(self, goal: str) -> None:
        self.asked: list[tuple[str, str | None]] = []
        tunnel = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_CONNECT(self) -> None:
                tunnel.asked.append((self.path, self.headers.get("Proxy-Authorization")))
                host, _, port = goal.partition(":")
                with socket.create_connection((host, int(port))) as there:
                    self.send_response(200)
                    self.end_headers()
                    back = threading.Thread(
                        target=_pipe, args=(there, self.connection), daemon=True
                    )
                    back.start()
                    _pipe(self.connection, there)
                    back.join()

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


class TokenServer:
    """Gives access tokens to a password, to nobody in particular, or for an identity token.

    The registry verifies their signatures (distribution's token specification).

    Attributes:
        asked: ``(method, parameters)`` of each request.
        lifetime_s: Of the tokens.
        anonymous: Whether nobody in particular may pull.
    """

    IDENTITY: ClassVar[str] = "identity-token-of-user"

    def __init__(self, folder: Path) -> None:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        self._key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test token server")])
        import datetime

        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.bundle = folder / "token.pem"
        self.bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._der = certificate.public_bytes(serialization.Encoding.DER)
        self.asked: list[tuple[str, dict[str, list[str]]]] = []
        self.lifetime_s = 300
        self.anonymous = True
        self.less = False
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def config(self) -> str:
        """For the registry."""
        return (
            f"auth: {{token: {{realm: '{self.realm}', service: test, issuer: test, "
            f"rootcertbundle: {self.bundle}}}}}\n"
        )

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self._give(parse_qs(urlsplit(self.path).query))

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                self._give(parse_qs(self.rfile.read(length).decode()))

            def _give(self, asked: dict[str, list[str]]) -> None:
                server.asked.append((self.command, asked))
                pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
                header = self.headers.get("Authorization")
                known = header == f"Basic {pair}" or asked.get("refresh_token") == [server.IDENTITY]
                scopes = " ".join(asked.get("scope", [])).split()
                if not known and (header or "refresh_token" in asked or not server.anonymous):
                    self.send_error(401)
                    return
                key = "access_token" if self.command == "POST" else "token"
                token = server.token(scopes, known)
                body = json.dumps({key: token, "expires_in": server.lifetime_s}).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        return Handler

    def token(self, scopes: list[str], known: bool) -> str:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec, utils

        access = []
        for scope in scopes:
            kind, name, actions = scope.split(":")
            may = [one for one in actions.split(",") if known or one == "pull"]
            access.append({"type": kind, "name": name, "actions": may})
        now = int(time.time())
        header = {"typ": "JWT", "alg": "ES256", "x5c": [base64.b64encode(self._der).decode()]}
        claims = {
            "iss": "test", "sub": USER, "aud": "test", "exp": now + 300, "nbf": now - 10,
            "iat": now, "jti": os.urandom(8).hex(), "access": access,
        }  # fmt: skip
        signed = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        der = self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256()))
        r, s = utils.decode_dss_signature(der)
        return f"{signed}.{_encoded(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
