"""More services on this machine's own packages: asked in their protocols, seeded, refused."""

from __future__ import annotations

import json
import os
import smtplib
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener, urlopen

import pytest

import pytest_containers as pc
from pytest_containers.services import Service


def connected(service: Service) -> socket.socket:
    return socket.create_connection((service.host, service.port), timeout=60)


def fetch(url: str, data: object = None, method: str | None = None, headers: Mapping[str, str] = {}) -> bytes:  # fmt: skip
    body = data if data is None or isinstance(data, bytes) else json.dumps(data).encode()
    with urlopen(Request(url, body, dict(headers), method=method), timeout=60) as answer:
        return answer.read()


# Each of these servers: give it data, and tell whether it has them.


def send_mail(smtp: pc.services.Smtp, subject: str = "seeded") -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["To"] = subject, "a@example.org", "b@example.org"
    message.set_content("Grüße\n.\n")
    with smtplib.SMTP(smtp.host, smtp.port, timeout=60) as client:
        client.send_message(message, to_addrs=["b@example.org", "hidden@example.org"])


def has_mail(smtp: pc.services.Smtp) -> bool:
    return [mail.message["Subject"] for mail in smtp.messages] == ["seeded"]


def ssh_options(ssh: pc.services.OpenSSH, folder: Path) -> list[str]:
    key, hosts = folder / "key", folder / "hosts"
    if not key.exists():
        key.touch(0o600)
        key.write_text(ssh.private_key)
    hosts.write_text(ssh.known_hosts)
    return [
        "-F",
        "none",
        "-i",
        str(key),
        "-o",
        "BatchMode=yes",
        "-o",
        f"UserKnownHostsFile={hosts}",
    ]


def put_file(ssh: pc.services.OpenSSH) -> None:
    ssh.exec(["sh", "-c", "echo seeded > note"], user="test", workdir="/home/test", check=True)


def has_file(ssh: pc.services.OpenSSH) -> bool:
    return ssh.exec(["test", "-e", "/home/test/note"]).returncode == 0


def add_person(ldap: pc.services.OpenLDAP) -> None:
    ldap.modify(
        "dn: uid=ada,dc=example,dc=org\nobjectClass: inetOrgPerson\nuid: ada\ncn: Ada\nsn: Löv\n"
    )


def has_person(ldap: pc.services.OpenLDAP) -> bool:
    return [entry["sn"] for entry in ldap.search("(uid=ada)", "sn")] == [["Löv"]]


def s3(moto: pc.services.Moto) -> Any:
    import boto3

    names = {"aws_access_key_id": moto.access_key, "aws_secret_access_key": moto.secret_key}
    return boto3.client("s3", endpoint_url=moto.url(), region_name=moto.region, **names)


def put_object(moto: pc.services.Moto) -> None:
    s3(moto).put_object(Bucket="files", Key="a b/ü", Body=b"seeded\n")


def has_object(moto: pc.services.Moto) -> bool:
    client = s3(moto)
    if not client.list_objects_v2(Bucket="files").get("Contents"):
        return False
    return bool(client.get_object(Bucket="files", Key="a b/ü")["Body"].read() == b"seeded\n")


def write_points(influxdb: pc.services.InfluxDB) -> None:
    influxdb.write("room,floor=1 celsius=21.5 1\nroom,floor=2 celsius=19 2\n")


def has_points(influxdb: pc.services.InfluxDB) -> bool:
    series = influxdb.query("select celsius from room group by floor")
    return [(each["tags"]["floor"], each["values"][0][1]) for each in series] == [("1", 21.5), ("2", 19)]  # fmt: skip


def put_job(beanstalkd: Service) -> None:
    with connected(beanstalkd) as sock:
        sock.sendall(b"put 1 0 60 6\r\nseeded\r\n")
        assert sock.recv(100).startswith(b"INSERTED")


def has_job(beanstalkd: Service) -> bool:
    with connected(beanstalkd) as sock:
        sock.sendall(b"peek-ready\r\n")
        return b"\r\nseeded\r\n" in sock.recv(100)


BLOB = "sha256:" + sha256(b"seeded").hexdigest()


def put_blob(registry: pc.services.DockerRegistry) -> None:
    with urlopen(Request(f"{registry.url()}/v2/app/blobs/uploads/", b"", method="POST")) as answer:
        location = answer.headers["Location"]
    kind = {"Content-Type": "application/octet-stream"}
    fetch(f"{location}&digest={BLOB}", b"seeded", "PUT", kind)


def has_blob(registry: pc.services.DockerRegistry) -> bool:
    try:
        return fetch(f"http://{registry.address}/v2/app/blobs/{BLOB}") == b"seeded"
    except HTTPError as error:
        assert error.code == 404
        return False


def name_of(name: str) -> bytes:
    """Return a name as in messages of the DNS (RFC 1035, 3.1)."""
    return b"".join(bytes([len(label)]) + label.encode() for label in name.split(".")) + b"\0"


def add_record(bind: pc.services.Bind9) -> None:
    """Add an address to the zone with an UPDATE (RFC 2136)."""
    zone = name_of("example.test") + struct.pack(">HH", 6, 1)
    update = name_of("seeded.example.test") + struct.pack(">HHIH4B", 1, 1, 60, 4, 192, 0, 2, 9)
    message = struct.pack(">6H", 2, 0x2800, 1, 0, 1, 0) + zone + update
    with connected(bind) as sock:
        sock.sendall(struct.pack(">H", len(message)) + message)
        assert sock.recv(100)[5] & 15 == 0


def address_of(bind: pc.services.Bind9, name: str) -> str | None:
    """Ask for the address of a name, over UDP."""
    query = struct.pack(">6H", 7, 0, 1, 0, 0, 0) + name_of(name) + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(5)
        sock.connect(bind.udp_address)
        sock.send(query)
        answer = sock.recv(512)
    end = len(query) + 16
    return socket.inet_ntoa(answer[end - 4 : end]) if answer[7] else None


def has_record(bind: pc.services.Bind9) -> bool:
    return address_of(bind, "seeded.example.test") == "192.0.2.9"


def of_zookeeper(zookeeper: Service, *requests: bytes) -> list[bytes]:
    """Open a session, and return the answers to requests (zookeeper.jute)."""
    hello = struct.pack(">iqiqi16s", 0, 0, 4000, 0, 16, b"")
    with connected(zookeeper) as sock, sock.makefile("rwb") as stream:
        answers = []
        for message in (hello, *requests):
            stream.write(struct.pack(">i", len(message)) + message)
            stream.flush()
            answers.append(stream.read(struct.unpack(">i", stream.read(4))[0]))
    return answers[1:]


def _buffer(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def make_node(zookeeper: Service) -> None:
    everybody = struct.pack(">ii", 1, 31) + _buffer(b"world") + _buffer(b"anyone")
    create = struct.pack(">ii", 1, 1) + _buffer(b"/a") + _buffer(b"seeded") + everybody
    (answer,) = of_zookeeper(zookeeper, create + struct.pack(">i", 0))
    assert answer.endswith(b"/a")


def has_node(zookeeper: Service) -> bool:
    (answer,) = of_zookeeper(zookeeper, struct.pack(">ii", 1, 4) + _buffer(b"/a") + b"\0")
    return b"seeded" in answer


CASES: dict[str, tuple[Callable[..., None], Callable[..., bool], dict[str, Any]]] = {
    "Smtp": (send_mail, has_mail, {}),
    "OpenSSH": (put_file, has_file, {}),
    "OpenLDAP": (add_person, has_person, {}),
    "Moto": (put_object, has_object, {"buckets": ["files"]}),
    "InfluxDB": (write_points, has_points, {}),
    "Beanstalkd": (put_job, has_job, {}),
    "DockerRegistry": (put_blob, has_blob, {}),
    "Bind9": (add_record, has_record, {"zones": {"example.test": ["www A 192.0.2.1"]}}),
    "ZooKeeper": (make_node, has_node, {}),
}


def of_host(name: str) -> object:
    own = {"DockerRegistry": "docker-registry"}
    marks = [pytest.mark.needs(own.get(name, name.lower()))]
    marks += [pytest.mark.needs("id range")] if name == "OpenSSH" else []
    marks += [pytest.mark.slow, pytest.mark.long] if name in ("ZooKeeper", "Moto") else []
    return pytest.param(name, marks=marks)


@pytest.fixture
def start(engine: pc.Engine, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts services on the host's packages; those of a test are in one network."""
    started: list[Service] = []
    network = engine.create_network()

    def start(name: str, *, seed: object = None, host: str | None = None, **options: object) -> Any:
        service = getattr(pc.services, name)(**{"image": "host:", **options})
        host = host or f"{name.lower()}{len(started) or ''}"
        started.append(
            service.start(engine, seed=seed, project=tmp_path, network=network, name=host)
        )
        return started[-1]

    yield start
    for service in started:
        service.container.remove()
    network.remove()


@pytest.mark.parametrize("name", [of_host(name) for name in CASES])
def test_a_seed_and_a_snapshot_are_there_at_a_start_and_nothing_else(start, name: str) -> None:
    fill, has, options = CASES[name]
    service = start(name, seed=fill, **options)
    assert has(service)
    url = urlsplit(service.url())
    assert (url.hostname, url.port) == (service.host, service.port)
    assert urlsplit(service.internal_dsn).hostname == name.lower()
    assert any(letter.isdigit() for letter in service.version)
    other = start(name, durable=True, **options)
    assert not has(other)
    fill(other)
    assert has(other)
    assert has(start(name, image=other.snapshot(), **options))


@pytest.mark.needs("smtp")
def test_an_smtp_server_keeps_what_it_accepts(start) -> None:
    smtp = start("Smtp", user="me", password="p w", refused=["Gone@example.org"])
    with smtplib.SMTP(smtp.host, smtp.port, timeout=60) as client:
        with pytest.raises(smtplib.SMTPSenderRefused, match="530"):
            client.sendmail("", ["b@example.org"], "x")
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.login("me", "wrong")
        client.login("me", "p w")
        refused = client.sendmail(
            "a@example.org", ["gone@example.org", "b@example.org"], "x: y\n\nz"
        )
        assert refused == {"gone@example.org": (550, b"5.1.1 mailbox unavailable")}
        client.sendmail("", ["b@example.org"], "second")
    first, second = smtp.wait_for_messages(2)
    assert first.sender == "a@example.org" and first.recipients == ("b@example.org",)
    assert first.content == b"x: y\r\n\r\nz\r\n" and first.message["x"] == "y"
    assert second.sender == "" and smtp.url().startswith("smtp://me:p%20w@")
    smtp.clear()
    with pytest.raises(pc.WaitTimeoutError, match="'smtp' has received 0 messages of 1"):
        smtp.wait_for_messages(1, timeout_s=0.02)


@pytest.mark.needs("openssh", "id range")
@pytest.mark.long
def test_ssh_and_sftp_with_a_key_or_a_password(start, tmp_path: Path) -> None:
    ssh = start("OpenSSH", password="it's")
    options = ssh_options(ssh, tmp_path)
    login = ["-p", str(ssh.port), f"test@{ssh.host}"]
    command = ["ssh", *options, *login, "echo $USER; pwd"]
    assert subprocess.check_output(command, timeout=60) == b"test\n/home/test\n"
    only = start("OpenSSH", password="it's", sftp_only=True)
    options = ssh_options(only, tmp_path)
    (tmp_path / "note").write_text("sent")
    batch = b"put note sent\nrename sent received\n"
    command = ["sftp", *options, "-b", "-", "-P", str(only.port), f"test@{only.host}"]
    subprocess.run(command, input=batch, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    assert only.exec(["stat", "-c", "%U", "/home/test/received"], text=True).stdout == "test\n"
    only_login = ["-p", str(only.port), f"test@{only.host}"]
    done = subprocess.run(["ssh", *options, *only_login, "id"], capture_output=True, timeout=60)
    assert b"uid=" not in done.stdout
    for password, returncode in (("it's", 0), ("wrong", 255)):
        ask = tmp_path / "ask"
        ask.write_text(f'#!/bin/sh\necho "{password}"\n')
        ask.chmod(0o755)
        own = ["-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=1"]
        hosts = ["-o", f"UserKnownHostsFile={tmp_path}/hosts2"]
        (tmp_path / "hosts2").write_text(ssh.known_hosts)
        env = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        command = ["ssh", "-F", "none", *own, *hosts, *login, "true"]
        done = subprocess.run(command, env=env, capture_output=True, timeout=60)
        assert done.returncode == returncode, done.stderr


@pytest.mark.needs("openldap")
def test_ldap_with_a_script_a_client_and_what_it_refuses(start, tmp_path: Path) -> None:
    (tmp_path / "people.ldif").write_text(
        "dn: ou=people,o=my org\nobjectClass: organizationalUnit\nou: people\n\n"
        "dn: cn=eve,ou=people,o=my org\nobjectClass: person\ncn: eve\nsn: x\nuserPassword: pw\n"
    )
    ldap = start("OpenLDAP", seed="people.ldif", base="o=my org", password='a"\\ b')
    assert [entry["dn"] for entry in ldap.search("(cn=eve)", "cn")] == [
        ["cn=eve,ou=people,o=my org"]
    ]
    for user, password, returncode in (
        (ldap.user, ldap.password, 0), ("cn=eve,ou=people,o=my org", "pw", 0), (ldap.user, "x", 49),
    ):  # fmt: skip
        command = [
            "ldapsearch",
            "-x",
            "-H",
            ldap.url(),
            "-b",
            ldap.base,
            "-D",
            user,
            "-w",
            password,
        ]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == returncode
    with pytest.raises(pc.ExecError, match="ldapmodify in 'openldap' failed: .*No such object"):
        ldap.modify("dn: cn=x,ou=none,o=my org\nchangetype: delete\n")
    with pytest.raises(pc.SpecError, match=r"OpenLDAP can run \.ldif and \.sh files only"):
        start("OpenLDAP", seed="people.sql")


@pytest.mark.slow
@pytest.mark.needs("moto")
@pytest.mark.long
def test_moto_serves_more_than_s3_and_its_clones_have_what_it_has(start) -> None:
    import boto3

    moto = start("Moto", buckets=["one", "two"], region="eu-north-1")
    assert [bucket["Name"] for bucket in s3(moto).list_buckets()["Buckets"]] == ["one", "two"]
    session = boto3.Session("test", "test", region_name=moto.region)
    queue = session.client("sqs", endpoint_url=moto.url()).create_queue(QueueName="jobs")[
        "QueueUrl"
    ]
    session.client("sqs", endpoint_url=moto.url()).send_message(QueueUrl=queue, MessageBody="hello")
    copy = moto.clone("copy")
    try:
        client = session.client("sqs", endpoint_url=copy.url())
        (message,) = client.receive_message(QueueUrl=queue)["Messages"]
        assert message["Body"] == "hello"
    finally:
        copy.container.remove()
    assert moto.environment["AWS_ENDPOINT_URL"] == moto.url()


@pytest.mark.needs("influxdb")
def test_influxdb_with_a_script_and_a_login(start, tmp_path: Path) -> None:
    (tmp_path / "points.lp").write_text("room celsius=1 1\n")
    influxdb = start(
        "InfluxDB", seed="points.lp", user="o'ne", password="it's", env={"INFLUXDB_DB": 'a "b"'}
    )
    assert influxdb.database == 'a "b"'
    assert influxdb.query("select * from room")[0]["values"] == [
        ["1970-01-01T00:00:00.000000001Z", 1]
    ]
    with pytest.raises(HTTPError, match="401"):
        fetch(f"{influxdb.url()}/query?q=show+databases")
    with pytest.raises(pc.ContainersError, match="write in 'influxdb' failed: .*unable to parse"):
        influxdb.write("nonsense")
    with pytest.raises(pc.ContainersError, match="query in 'influxdb' failed: .*not found"):
        influxdb.query('select * from "none".."room"')


@pytest.mark.needs("haproxy")
def test_haproxy_balances_servers_of_the_test(start, engine: pc.Engine, tmp_path: Path) -> None:
    haproxy = start("HAProxy")
    assert fetch(haproxy.url()) == b"haproxy"
    serve = "echo {0} > /srv/name; exec python3 -m http.server -d /srv 8000"
    webs = [
        engine.run("host:", ["sh", "-c", serve.format(name)], name=name, ports=[8000],
                   network=haproxy.container.network)
        for name in ("web", "other")
    ]  # fmt: skip
    try:
        for mode in ("http", "tcp"):
            both = start("HAProxy", backends=["web:8000", "other:8000"], mode=mode)
            assert {fetch(f"{both.url()}/name") for _ in range(4)} == {b"web\n", b"other\n"}
    finally:
        for web in webs:
            web.remove()
    config = tmp_path / "haproxy.cfg"
    config.write_text(
        "defaults\n mode http\n timeout client 1s\n timeout server 1s\n timeout connect 1s\n"
        "frontend own\n bind :80\n http-request return status 200 content-type text/plain string own\n"
    )
    assert fetch(start("HAProxy", config=config).url()) == b"own"
    with pytest.raises(pc.SpecError, match="mode='tcp' is not usable; it must be 'http', or"):
        pc.services.HAProxy(mode="tcp")


@pytest.mark.needs("pgbouncer", "postgresql")
@pytest.mark.long
def test_pgbouncer_pools_connections_to_postgresql(start) -> None:
    pool = start("PgBouncer", server="db", user="my user", password='p"w', database="shop")
    start("Postgres", host="db", user="my user", password='p"w', database="shop")
    (psql,) = [str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/psql")][-1:]
    for url, output in ((pool.url(), b"1\n"), (pool.url().replace("p%22w", "x"), b"")):
        command = [psql, "-XAtw", url, "-c", "select 1"]
        done = subprocess.run(command, capture_output=True, timeout=60)
        assert (done.stdout, done.returncode) == (output, 0 if output else 2), done.stderr
    command = [psql, "-XAtw", pool.url().replace("/shop", "/pgbouncer"), "-c", "show pools"]
    assert b"transaction" in subprocess.check_output(command, timeout=60)


@pytest.mark.needs("bind9")
def test_bind_has_zones_of_lines_and_of_files(start, tmp_path: Path) -> None:
    zone = "$TTL 60\n@ SOA a b 1 1 1 1 1\n@ NS a\na A 192.0.2.5\n"
    (tmp_path / "zone").write_text(zone)
    bind = start("Bind9", zones={"lines.test": ["www A 192.0.2.7"], "file.test": tmp_path / "zone"})
    assert address_of(bind, "www.lines.test") == "192.0.2.7"
    assert address_of(bind, "a.file.test") == "192.0.2.5"
    assert address_of(bind, "www.file.test") is None
    with pytest.raises(pc.SpecError, match="zone 'a/b' is not usable"):
        pc.services.Bind9(zones={"a/b": []})


@pytest.mark.needs("squid")
def test_squid_is_a_proxy_to_servers_of_the_test(start, engine: pc.Engine) -> None:
    web = start("HAProxy", host="web")
    squid = start("Squid", user="me", password="p w")
    for login, expected in (("me:p%20w@", b"haproxy"), ("me:wrong@", None), ("", None)):
        proxy = f"http://{login}{squid.host}:{squid.port}"
        opener = build_opener(ProxyHandler({"http": proxy}))
        if expected is None:
            with pytest.raises(HTTPError, match="407"):
                opener.open(web.internal_dsn, timeout=60)
        else:
            assert opener.open(web.internal_dsn, timeout=60).read() == expected
    assert "http://web" in str(squid.logs()) and "TCP_DENIED/407" in str(squid.logs())


@pytest.mark.slow
@pytest.mark.needs("chromium")
@pytest.mark.long
def test_a_browser_opens_a_page_of_the_test(start) -> None:
    web = start("HAProxy", host="web")
    chromium = start("Chromium")
    created = json.loads(fetch(f"{chromium.url()}/session", {"capabilities": {}}, "POST"))
    session = f"{chromium.url()}/session/{created['value']['sessionId']}"
    fetch(f"{session}/url", {"url": web.internal_dsn}, "POST")
    script = {"script": "return document.body.innerText", "args": []}
    assert json.loads(fetch(f"{session}/execute/sync", script, "POST"))["value"] == "haproxy"
    fetch(session, method="DELETE")
    assert any(letter.isdigit() for letter in chromium.version)


@pytest.mark.needs("openssh")
def test_a_server_that_works_as_several_users_says_what_is_missing(
    own_engine, tmp_path: Path
) -> None:
    engine = own_engine(identity="single")
    with pytest.raises(
        pc.UnsupportedError, match=r"OpenSSH.*has a single id.*pytest-containers setup"
    ):
        pc.services.OpenSSH(image="host:").start(engine, project=tmp_path)


def test_a_module_that_the_environment_lacks(
    engine: pc.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pc.services.Moto, "modules", ("no_such_module",))
    with pytest.raises(
        pc.UnsupportedError, match=r"no_such_module.*pip install 'moto\[s3\]' flask"
    ):
        pc.services.Moto().start(engine)
