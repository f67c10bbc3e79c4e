"""Who we are to a registry: passwords, tokens, helpers, certificates."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from helpers.layouts import Layout, layer, member, output
from helpers.registry import PASSWORD, USER, Proxy, Rule, TokenServer, Tunnel, registry, skopeo

import pytest_containers as pc
from pytest_containers.model.engine_options import RegistrySettings

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry", "skopeo")]

MakeEngine = Callable[..., pc.Engine]
Settings = Callable[..., RegistrySettings]
PAIR = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()


def publish(layout: Layout, base: bytes, target: str, *options: str) -> str:
    source = layout.image([base, layer([member("data", b"private\n", mode=0o644)])])
    skopeo("copy", "--quiet", *options, f"{source}:1", f"docker://{target}")
    return target


@pytest.fixture(scope="module")
def locked() -> Iterator[str]:
    """A registry that wants a password."""
    with registry("auth: {htpasswd: {realm: test, path: HTPASSWD}}\n") as address:
        yield address


@pytest.fixture
def private(locked: str, layout: Layout, base: bytes) -> str:
    login = ("--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}")
    return publish(layout, base, f"{locked}/private:1", *login)


def auths(address: str, pair: str = PAIR) -> str:
    return json.dumps({"auths": {address: {"auth": pair}}})


def test_nobody_is_logged_in(own_engine: MakeEngine, private: str, as_user: Settings) -> None:
    with pytest.raises(pc.RegistryError) as caught:
        own_engine(registries=as_user()).image(private)
    text = str(caught.value)
    assert "denies access to 'private' without a login (401)" in text
    assert "log in with `docker login 127.0.0.1:" in text
    assert caught.value.status == 401


def test_a_wrong_password(
    own_engine: MakeEngine, private: str, locked: str, as_user: Settings
) -> None:
    wrong = base64.b64encode(b"user:guess").decode()
    engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=auths(locked, wrong)))
    with pytest.raises(
        pc.RegistryError, match=r"with the login of DOCKER_AUTH_CONFIG \(401\)"
    ) as caught:
        engine.image(private)
    assert "guess" not in str(caught.value)


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "where",
    ["DOCKER_AUTH_CONFIG", "DOCKER_CONFIG", "home", "REGISTRY_AUTH_FILE", "runtime", "config",
     "namespace", "helper", "store"],
)  # fmt: skip
def test_where_passwords_are_found(
    own_engine: MakeEngine, private: str, locked: str, as_user: Settings, tmp_path: Path, where: str
) -> None:
    environ: dict[str, str] = {}
    text = auths(locked)
    if where == "DOCKER_AUTH_CONFIG":
        environ[where] = text
    elif where == "DOCKER_CONFIG":
        environ[where] = str(write(tmp_path / "docker" / "config.json", text).parent)
    elif where == "home":
        write(tmp_path / ".docker" / "config.json", auths(f"https://{locked}/v2/"))
    elif where == "REGISTRY_AUTH_FILE":
        environ[where] = str(write(tmp_path / "auth.json", text))
    elif where == "runtime":
        environ["XDG_RUNTIME_DIR"] = str(tmp_path / "run")
        write(tmp_path / "run" / "containers" / "auth.json", text)
    elif where == "config":
        write(tmp_path / ".config" / "containers" / "auth.json", text)
    elif where == "namespace":
        other = {"auths": {locked: {"auth": "eDp5"}, f"{locked}/private": {"auth": PAIR}}}
        write(tmp_path / ".config" / "containers" / "auth.json", json.dumps(other))
    else:
        answer = json.dumps({"ServerURL": locked, "Username": USER, "Secret": PASSWORD})
        script = f"#!/bin/sh\nread server\n[ \"$1 $server\" = 'get {locked}' ] && echo '{answer}'\n"
        write(tmp_path / "bin" / "docker-credential-test", script, 0o755)
        environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
        config = {"credHelpers": {locked: "test"}} if where == "helper" else {"credsStore": "test"}
        environ["DOCKER_AUTH_CONFIG"] = json.dumps(config)
    engine = own_engine(registries=as_user(**environ))
    assert output(engine, private, "read x < /data; echo $x") == "private\n"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("#!/bin/sh\necho the keyring is locked; exit 1\n", "exit code 1: the keyring is locked"),
        ("#!/bin/sh\necho nonsense\n", "its answer is not understood"),
    ],
)
def test_helpers_that_fail(
    own_engine: MakeEngine, private: str, locked: str, as_user: Settings, tmp_path: Path,
    script: str, words: str,
) -> None:  # fmt: skip
    write(tmp_path / "bin" / "docker-credential-test", script, 0o755)
    config = json.dumps({"credHelpers": {locked: "test"}})
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=config, PATH=path))
    with pytest.raises(pc.RegistryError, match=words):
        engine.image(private)


def test_passwords_are_found_beside_a_helper_that_is_not_installed(
    own_engine: MakeEngine, private: str, locked: str, as_user: Settings
) -> None:
    config = {
        "credHelpers": {locked: "gone"},
        "credsStore": "gone",
        "auths": {locked: {"auth": PAIR}},
    }
    engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=json.dumps(config)))
    assert output(engine, private, "read x < /data; echo $x") == "private\n"


def test_a_helper_that_knows_nothing_is_no_error(
    own_engine: MakeEngine, private: str, locked: str, as_user: Settings, tmp_path: Path
) -> None:
    script = "#!/bin/sh\necho credentials not found in native keychain; exit 1\n"
    write(tmp_path / "bin" / "docker-credential-test", script, 0o755)
    config = json.dumps({"credsStore": "test", "auths": {locked: {"auth": PAIR}}})
    path = f"{tmp_path}/bin:{os.environ['PATH']}"
    engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=config, PATH=path))
    assert output(engine, private, "echo in") == "in\n"


def test_passwords_do_not_follow_redirects(
    own_engine: MakeEngine, private: str, locked: str, as_user: Settings
) -> None:
    """Registries keep blobs elsewhere, and that is nobody we are logged in to."""
    front, elsewhere = Proxy(locked), Proxy(locked)
    try:
        goal = {"Location": f"http://{elsewhere.address}/stolen"}
        front.rules = [Rule("GET .*/blobs/", times=99, status=307, headers=goal)]
        name = private.replace(locked, front.address)
        engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=auths(front.address)))
        with pytest.raises(pc.ImageError):
            engine.image(name)
        assert elsewhere.requests
        for _, _, headers in elsewhere.requests:
            assert "Authorization" not in headers
        assert any("Authorization" in headers for _, _, headers in front.requests)
    finally:
        front.close()
        elsewhere.close()


def test_passwords_do_not_go_where_a_layer_says_it_is(
    own_engine: MakeEngine, private: str, locked: str, layout: Layout, as_user: Settings
) -> None:
    """Layers that must not be distributed name other places (CVE-2020-15157)."""
    front, elsewhere = Proxy(locked), Proxy(locked)

    def named(data: bytes) -> bytes:
        body = json.loads(data)
        for one in body.get("layers", []):
            one["urls"] = [f"http://{elsewhere.address}/elsewhere/{one['digest']}"]
        return json.dumps(body).encode()

    largest = max(layout.path.glob("blobs/sha256/*"), key=lambda path: path.stat().st_size)
    try:
        front.rules = [
            Rule("manifests", times=9, body=named),
            Rule(f"GET .*/blobs/sha256:{largest.name}", times=9, status=404),
        ]
        engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=auths(front.address)))
        with pytest.raises(pc.RegistryError, match="does not have it although the image needs it"):
            engine.image(private.replace(locked, front.address))
        assert elsewhere.asked(f"GET /elsewhere/sha256:{largest.name}") == 1
        assert all("Authorization" not in headers for _, _, headers in elsewhere.requests)
    finally:
        front.close()
        elsewhere.close()


# ---------------------------------------------------------------------- tokens


@pytest.fixture
def tokens(tmp_path: Path) -> Iterator[TokenServer]:
    server = TokenServer(tmp_path)
    yield server
    server.close()


@pytest.fixture
def bearer(tokens: TokenServer, layout: Layout, base: bytes) -> Iterator[str]:
    """An image of a registry that wants tokens."""
    with registry(tokens.config) as address:
        login = ("--dest-tls-verify=false", f"--dest-creds={USER}:{PASSWORD}")
        name = publish(layout, base, f"{address}/team/app:1", *login)
        tokens.asked.clear()
        yield name


def test_a_token_for_nobody_in_particular(
    own_engine: MakeEngine, bearer: str, tokens: TokenServer, as_user: Settings
) -> None:
    assert output(own_engine(registries=as_user()), bearer, "echo in") == "in\n"
    assert [(method, asked["scope"], asked["service"]) for method, asked in tokens.asked] == [
        ("GET", ["repository:team/app:pull"], ["test"])  # once: it is kept
    ]


@pytest.mark.parametrize("where", ["credsStore", "credHelpers"])
def test_a_helper_that_is_not_installed_is_told_of(
    own_engine: MakeEngine, bearer: str, tokens: TokenServer, as_user: Settings, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, where: str,
) -> None:  # fmt: skip
    """A public image needs no credentials, whatever a config.json of another machine says."""
    address, helper = bearer.partition("/")[0], f"absent-{where.lower()}"
    config = {where: helper if where == "credsStore" else {address: helper}}
    write(tmp_path / ".docker" / "config.json", json.dumps(config))
    engine = own_engine(registries=as_user())
    assert output(engine, bearer, "echo in") == "in\n"
    own_engine(registries=as_user(), pull="always").image(bearer)
    told = [record.getMessage() for record in caplog.records if helper in record.getMessage()]
    assert len(told) == 1
    assert f"docker-credential-{helper}, which {tmp_path}/.docker/config.json names" in told[0]
    tokens.anonymous = False
    with pytest.raises(pc.RegistryError, match="nobody is logged"):
        own_engine(registries=as_user(), pull="always").image(bearer)


@pytest.mark.long
def test_tokens_for_a_password(
    own_engine: MakeEngine, bearer: str, tokens: TokenServer, as_user: Settings
) -> None:
    tokens.anonymous = False
    address = bearer.partition("/")[0]
    with pytest.raises(
        pc.RegistryError, match=r"token server refused access \(401\), nobody is logged"
    ):
        own_engine(registries=as_user()).image(bearer)
    engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=auths(address)))
    assert output(engine, bearer, "echo in") == "in\n"
    pushed = f"{address}/team/copy:1"
    engine.images.push(bearer, pushed)
    scopes = {scope for _, asked in tokens.asked for scope in asked["scope"]}
    assert "repository:team/copy:pull,push" in scopes
    assert "repository:team/app:pull" in scopes


def test_identity_tokens(
    own_engine: MakeEngine, bearer: str, tokens: TokenServer, as_user: Settings
) -> None:
    tokens.anonymous = False
    address = bearer.partition("/")[0]
    config = {"auths": {address: {"auth": base64.b64encode(b"<token>:").decode(),
                                  "identitytoken": TokenServer.IDENTITY}}}  # fmt: skip
    engine = own_engine(registries=as_user(DOCKER_AUTH_CONFIG=json.dumps(config)))
    assert output(engine, bearer, "echo in") == "in\n"
    assert [method for method, _ in tokens.asked][-1] == "POST"
    assert tokens.asked[-1][1]["grant_type"] == ["refresh_token"]


def test_a_token_that_is_refused_is_got_anew(
    own_engine: MakeEngine, bearer: str, tokens: TokenServer, as_user: Settings
) -> None:
    address = bearer.partition("/")[0]
    front = Proxy(address)
    try:
        name = bearer.replace(address, front.address)
        # The registry sees no authorization at first: as when a token has expired.
        front.rules = [Rule("GET .*/blobs/", drop_request=("authorization",))]
        engine = own_engine(registries=as_user())
        assert output(engine, name, "echo in") == "in\n"
        assert len(tokens.asked) == 2
    finally:
        front.close()


# ------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def encrypted(
    authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A registry with a certificate of an authority of the tests; and that one's own."""
    folder = tmp_path_factory.mktemp("tls")
    issued = authority.issue_cert("127.0.0.1", "localhost")
    issued.cert_chain_pems[0].write_to_path(folder / "server.pem")
    issued.private_key_pem.write_to_path(folder / "server.key")
    authority.cert_pem.write_to_path(folder / "ca.crt")
    with registry(tls=(folder / "server.pem", folder / "server.key")) as address:
        yield address, folder


@pytest.fixture
def over_tls(encrypted: tuple[str, Path], layout: Layout, base: bytes) -> str:
    return publish(layout, base, f"{encrypted[0]}/app:1", "--dest-tls-verify=false")


def test_an_unknown_authority(own_engine: MakeEngine, over_tls: str, as_user: Settings) -> None:
    with pytest.raises(pc.RegistryError, match=r"certificate.*certs\.d/127\.0\.0\.1:\d+/ca\.crt"):
        own_engine(registries=as_user()).image(over_tls)


@pytest.mark.parametrize("below", [".config/containers/certs.d", ".docker/certs.d"])
def test_an_authority_of_ones_own(
    own_engine: MakeEngine, over_tls: str, encrypted: tuple[str, Path], as_user: Settings,
    tmp_path: Path, below: str,
) -> None:  # fmt: skip
    address, folder = encrypted
    write(tmp_path / below / address / "ca.crt", (folder / "ca.crt").read_text())
    assert output(own_engine(registries=as_user()), over_tls, "echo in") == "in\n"


def test_declared_insecure(
    own_engine: MakeEngine, over_tls: str, encrypted: tuple[str, Path], as_user: Settings
) -> None:
    settings = as_user(insecure=frozenset({encrypted[0]}))
    assert output(own_engine(registries=settings), over_tls, "echo in") == "in\n"


def test_a_broken_certificate_file(
    own_engine: MakeEngine,
    over_tls: str,
    encrypted: tuple[str, Path],
    as_user: Settings,
    tmp_path: Path,
) -> None:
    write(tmp_path / ".config/containers/certs.d" / encrypted[0] / "ca.crt", "no certificate")
    with pytest.raises(pc.RegistryError, match=r"certificate .*/ca\.crt"):
        own_engine(registries=as_user()).image(over_tls)


def test_client_certificates(
    own_engine: MakeEngine, authority: trustme.CA, layout: Layout, base: bytes, as_user: Settings,
    encrypted: tuple[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    _, folder = encrypted
    client = authority.issue_cert("client@example.test")
    with registry(
        tls=(folder / "server.pem", f"{folder}/server.key, clientcas: [{folder}/ca.crt]")
    ) as address:  # type: ignore[arg-type]
        certs = tmp_path / ".config/containers/certs.d" / address
        write(certs / "ca.crt", (folder / "ca.crt").read_text())
        with pytest.raises(pc.RegistryError):
            own_engine(registries=as_user()).image(f"{address}/app:1")
        client.cert_chain_pems[0].write_to_path(certs / "client.cert")
        client.private_key_pem.write_to_path(certs / "client.key")
        name = publish(layout, base, f"{address}/app:1", f"--dest-cert-dir={certs}")
        assert output(own_engine(registries=as_user()), name, "echo in") == "in\n"


def test_a_proxy(
    own_engine: MakeEngine, authority: trustme.CA, layout: Layout, base: bytes, as_user: Settings,
    encrypted: tuple[str, Path], tmp_path: Path,
) -> None:  # fmt: skip
    """The registry's name is known to the proxy only."""
    _, folder = encrypted
    issued = authority.issue_cert("registry.test", "127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    issued.private_key_pem.write_to_path(tmp_path / "server.key")
    with registry(tls=(tmp_path / "server.pem", tmp_path / "server.key")) as address:
        publish(layout, base, f"{address}/app:1", "--dest-tls-verify=false")
        name = f"registry.test:{address.rpartition(':')[2]}"
        write(
            tmp_path / ".config/containers/certs.d" / name / "ca.crt",
            (folder / "ca.crt").read_text(),
        )
        tunnel = Tunnel(address)
        try:
            with pytest.raises(pc.RegistryError, match="its name is not known"):
                own_engine(registries=as_user()).image(f"{name}/app:1")
            settings = as_user(HTTPS_PROXY=f"http://me:w%40rd@{tunnel.address}")
            assert output(own_engine(registries=settings), f"{name}/app:1", "echo in") == "in\n"
            login = base64.b64encode(b"me:w@rd").decode()
            assert set(tunnel.asked) == {(name, f"Basic {login}")}
            settings = as_user(HTTPS_PROXY=f"http://{tunnel.address}", NO_PROXY="registry.test")
            with pytest.raises(pc.RegistryError, match="its name is not known"):
                own_engine(registries=settings, pull="always").image(f"{name}/app:1")
        finally:
            tunnel.close()


def test_plain_http_where_nobody_declared_it(
    own_engine: MakeEngine, plain_registry: str, as_user: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    real = socket.getaddrinfo

    def resolve(host: str, *arguments: object, **options: object) -> object:
        return real("127.0.0.1" if host == "registry.test" else host, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    name = f"registry.test:{plain_registry.rpartition(':')[2]}/nothing:1"
    with pytest.raises(
        pc.RegistryError, match=r"plain http.*--containers-insecure-registry registry\.test:"
    ):
        own_engine(registries=as_user()).image(name)
    settings = as_user(insecure=frozenset({name.partition("/")[0]}))
    with pytest.raises(pc.ImageNotFoundError):
        own_engine(registries=settings).image(name)
