"""Pull and push against a real registry: what is asked, fetched, kept and sent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.layouts import Layout, digest, gzipped, layer, member, output
from helpers.registry import Proxy, Rule, skopeo, upload

import pytest_containers as pc
from pytest_containers.images.manifest import architecture
from pytest_containers.model.engine_options import RegistrySettings

pytestmark = [pytest.mark.slow, pytest.mark.needs("docker-registry", "skopeo")]

Publish = Callable[[str], str]
MakeEngine = Callable[..., pc.Engine]


def test_pull_and_run(own_engine: MakeEngine, proxy: Proxy, published: Publish) -> None:
    name = f"{proxy.address}/{published('team/app')}"
    engine = own_engine()
    with engine.run(name, wait_ready=False) as container:
        assert container.wait(60) == 0
        assert container.logs().stdout == "team/app\n"
    image = engine.image(name)
    assert (
        image.digest
        == skopeo(
            "inspect", "--tls-verify=false", "--format", "{{.Digest}}", f"docker://{name}"
        ).strip()
    )
    assert [one["name"] for one in engine.images.list()] == [name]


@pytest.mark.long
def test_what_is_stored_is_not_asked_for(
    own_engine: MakeEngine, proxy: Proxy, published: Publish
) -> None:
    name = f"{proxy.address}/{published('present')}"
    own_engine().image(name)
    asked = len(proxy.requests)
    assert output(own_engine(), name, "echo again") == "again\n"
    assert len(proxy.requests) == asked
    own_engine(pull="always").image(name)
    assert [(one[0], one[1]) for one in proxy.requests[asked:]] == [
        ("HEAD", "/v2/present/manifests/1")
    ]


@pytest.mark.long
def test_always_finds_what_is_newer(
    own_engine: MakeEngine, plain_registry: str, base: bytes, tmp_path: Path, published: Publish
) -> None:
    name = f"{plain_registry}/{published('moving')}"
    assert output(own_engine(), name, "read x < /data; echo $x") == "moving\n"
    other = Layout(tmp_path / "other").image(
        [base, layer([member("data", b"newer\n", mode=0o644)])]
    )
    upload(f"{other}:1", name)
    assert output(own_engine(), name, "read x < /data; echo $x") == "moving\n"
    assert output(own_engine(pull="always"), name, "read x < /data; echo $x") == "newer\n"
    assert output(own_engine(pull="never"), name, "read x < /data; echo $x") == "newer\n"


def test_never_means_never(own_engine: MakeEngine, proxy: Proxy, published: Publish) -> None:
    name = f"{proxy.address}/{published('unwanted')}"
    with pytest.raises(
        pc.ImageNotFoundError, match="may not be pulled .* `pytest-containers pull`"
    ):
        own_engine(pull="never").image(name)
    assert proxy.requests == []


@pytest.mark.long
def test_stored_layers_are_not_fetched(
    own_engine: MakeEngine, proxy: Proxy, base: bytes, tmp_path: Path, plain_registry: str,
    published: Publish,
) -> None:  # fmt: skip
    engine = own_engine()
    engine.image(f"{proxy.address}/{published('first')}")
    before = dict(proxy.sent_bytes)
    engine.image(f"{proxy.address}/{published('second')}")
    fetched = [path for path in proxy.sent_bytes if path not in before and "/blobs/" in path]
    assert len(fetched) == 2  # the config and the layer that differs


@pytest.mark.long
def test_processes_that_ask_at_once_fetch_once(
    proxy: Proxy, base: bytes, tmp_path: Path, plain_registry: str
) -> None:
    top = layer([member("noise", os.urandom(3_000_000))])
    upload(f"{Layout(tmp_path / 'l').image([base, top])}:1", f"{plain_registry}/shared:1")
    code = (
        "import sys, pytest_containers as pc\n"
        "with pc.Engine(home=sys.argv[1]) as e, e.run(sys.argv[2], ['/bin/sh', '-c', 'echo ok']) as c:\n"
        "    c.wait(60); print(c.logs().stdout, end='')\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "store"), f"{proxy.address}/shared:1"]
    children = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(8)]
    assert [child.communicate(timeout=90)[0] for child in children] == ["ok\n"] * 8
    for path in {path for _, path, _ in proxy.requests if "/blobs/" in path}:
        config = proxy.sent_bytes[path] < 2000
        assert config or proxy.asked(f"GET {path}") == 1
    assert os.listdir(tmp_path / "store" / "tmp") == []


def test_a_killed_pull_goes_on_where_it_was(
    own_engine: MakeEngine, proxy: Proxy, base: bytes, tmp_path: Path, plain_registry: str
) -> None:
    top = layer([member("noise", os.urandom(4_000_000))])
    upload(f"{Layout(tmp_path / 'l').image([base, top])}:1", f"{plain_registry}/killed:1")
    name = f"{proxy.address}/killed:1"
    blob = gzipped(top)
    path = f"blobs/{digest(blob)}"
    proxy.rules = [Rule(path, cut_after=2_500_000), Rule(path, delay_s=60)]
    code = "import sys, pytest_containers as pc\npc.Engine(home=sys.argv[1]).image(sys.argv[2])\n"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "store"), name])
    end = time.monotonic() + 20
    while proxy.asked(path) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    proxy.rules = []
    assert output(own_engine(), name, "echo whole") == "whole\n"
    resumed = [headers for _, asked, headers in proxy.requests if path in asked]
    assert resumed[-1]["Range"] == "bytes=2500000-"
    assert not list((tmp_path / "store" / "partial").iterdir())


@pytest.mark.parametrize("kind", ["gzip", "zstd", "plain", "docker"])
def test_media_types(
    own_engine: MakeEngine, plain_registry: str, base: bytes, tmp_path: Path, kind: str
) -> None:
    source = Layout(tmp_path / "l").image([base, layer([member("data", b"x")])])
    options = {
        "gzip": (),
        "zstd": ("--dest-compress-format=zstd", "--dest-compress"),
        "plain": ("--dest-decompress",),
        "docker": ("--format=v2s2",),
    }[kind]
    if kind == "plain":  # skopeo decompresses for directories only
        source = Layout(tmp_path / "p").image([base, layer([member("data", b"x")])], compress=bytes)
        options = ()
    name = f"{plain_registry}/kinds/{kind}:1"
    upload(f"{source}:1", name, *options)
    engine = own_engine()
    assert output(engine, name, "read x < /data; echo $x; echo /data") == "x\n/data\n"
    types = [one["media_type"] for one in engine.images.inspect(name)["layers"]]
    assert all(
        {"gzip": "tar+gzip", "zstd": "zstd", "plain": "v1.tar", "docker": "diff.tar.gzip"}[kind]
        in one
        for one in types
    ) or kind in ("plain", "zstd")


class Index:
    """An index, put into a registry by hand."""

    def __init__(self, address: str, repository: str) -> None:
        self._url = f"http://{address}/v2/{repository}/manifests"

    def put(self, tag: str, body: dict[str, Any], media_type: str) -> str:
        import urllib3

        data = json.dumps(body).encode()
        name = tag or digest(data)
        answer = urllib3.request(
            "PUT", f"{self._url}/{name}", body=data, headers={"Content-Type": media_type}
        )
        assert answer.status == 201, answer.data
        return digest(data)


OCI = "application/vnd.oci.image"


def test_an_index(own_engine: MakeEngine, plain_registry: str, base: bytes, tmp_path: Path) -> None:
    """Foreign platforms, attestations and unknown types are passed over; indexes may nest."""
    layout = Layout(tmp_path / "l")
    upload(
        f"{layout.image([base, layer([member('data', b'mine')])])}:1", f"{plain_registry}/multi:in"
    )
    mine = json.loads((layout.path / "index.json").read_text())["manifests"][0]
    entry = {key: mine[key] for key in ("mediaType", "digest", "size")}
    index = Index(plain_registry, "multi")
    nested = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [
        {**entry, "platform": {"os": "linux", "architecture": architecture()}},
    ]}  # fmt: skip
    inner = index.put("", nested, nested["mediaType"])
    here = {"os": "linux", "architecture": architecture()}
    top = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [
        {**entry, "platform": {"os": "windows", "architecture": architecture()}},
        {**entry, "platform": {"os": "linux", "architecture": "s390x"}},
        {**entry, "platform": here, "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
         "digest": mine["digest"]},
        {"mediaType": f"{OCI}.index.v1+json", "digest": inner, "size": len(json.dumps(nested)),
         "platform": here},
    ]}  # fmt: skip
    digest_of_top = index.put("1", top, top["mediaType"])
    engine = own_engine()
    assert output(engine, f"{plain_registry}/multi:1", "read x < /data; echo $x") == "mine\n"
    assert engine.images.inspect(f"{plain_registry}/multi:1")["digest"] == mine["digest"]
    assert output(engine, f"{plain_registry}/multi@{digest_of_top}", "echo yes") == "yes\n"


def test_foreign_platforms_only(
    own_engine: MakeEngine, plain_registry: str, base: bytes, tmp_path: Path
) -> None:
    layout = Layout(tmp_path / "l")
    upload(f"{layout.image([base])}:1", f"{plain_registry}/foreign:in")
    mine = json.loads((layout.path / "index.json").read_text())["manifests"][0]
    entry = {key: mine[key] for key in ("mediaType", "digest", "size")}
    body = {"schemaVersion": 2, "mediaType": f"{OCI}.index.v1+json", "manifests": [
        {**entry, "platform": {"os": "linux", "architecture": "arm", "variant": "v7"}},
        {**entry, "platform": {"os": "linux", "architecture": "s390x"}},
    ]}  # fmt: skip
    Index(plain_registry, "foreign").put("1", body, body["mediaType"])
    with pytest.raises(
        pc.ImageError, match=r"is for linux/arm/v7, linux/s390x; this machine is linux/"
    ):
        own_engine().image(f"{plain_registry}/foreign:1")


@pytest.mark.long
def test_by_digest(own_engine: MakeEngine, proxy: Proxy, published: Publish) -> None:
    name = published("pinned")
    engine = own_engine()
    pinned = engine.image(f"{proxy.address}/{name}").digest
    reference = f"{proxy.address}/pinned@{pinned}"
    assert output(engine, reference, "echo pinned") == "pinned\n"
    asked = len(proxy.requests)
    assert output(own_engine(pull="always"), reference, "echo pinned") == "pinned\n"
    assert len(proxy.requests) == asked  # what a digest names does not change


def test_mirrors_are_asked_first(
    own_engine: MakeEngine, proxy: Proxy, published: Publish, plain_registry: str
) -> None:
    published("mirrored/app")
    name = f"{plain_registry}/app:1"
    settings = RegistrySettings(mirrors={plain_registry: [f"{proxy.address}/mirrored"]})
    assert (
        output(own_engine(registries=settings), name, "read x < /data; echo $x") == "mirrored/app\n"
    )
    assert proxy.asked("/v2/mirrored/app/") > 0


@pytest.mark.long
def test_a_mirror_that_lacks_it_is_passed_over(
    own_engine: MakeEngine, proxy: Proxy, published: Publish, plain_registry: str
) -> None:
    name = f"{plain_registry}/{published('unmirrored')}"
    settings = RegistrySettings(
        mirrors={plain_registry: ["127.0.0.1:1", f"{proxy.address}/nowhere"]}
    )
    assert output(own_engine(registries=settings), name, "echo fine") == "fine\n"
    assert proxy.asked("/v2/nowhere/unmirrored/") == 1


def test_prefix_of_testcontainers(
    own_engine: MakeEngine, published: Publish, plain_registry: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    published("hub/redis")
    monkeypatch.setenv("TESTCONTAINERS_HUB_IMAGE_NAME_PREFIX", f"{plain_registry}/hub/")
    assert output(own_engine(), "redis:1", "echo in") == "in\n"


@pytest.mark.long
def test_prefix_of_the_hub(own_engine: MakeEngine, published: Publish, plain_registry: str) -> None:
    published("hub/redis")
    settings = RegistrySettings(hub_prefix=f"{plain_registry}/hub/")
    engine = own_engine(registries=settings)
    assert output(engine, "redis:1", "read x < /data; echo $x") == "hub/redis\n"
    assert [one["name"] for one in engine.images.list()] == [f"{plain_registry}/hub/redis:1"]
    assert engine.images.pull("redis:1").name == f"{plain_registry}/hub/redis:1"
    with pytest.raises(pc.ImageError, match="registry 127.0.0.1:1 cannot be reached"):
        engine.image("127.0.0.1:1/other:1")


# ------------------------------------------------------------------------ push


def test_push_is_byte_for_byte(
    own_engine: MakeEngine, proxy: Proxy, published: Publish, tmp_path: Path, plain_registry: str
) -> None:
    name = f"{proxy.address}/{published('origin/app')}"
    engine = own_engine()
    pulled = engine.image(name)
    pushed = engine.images.push(name, f"{proxy.address}/copied/app:2")
    assert pushed == pulled.digest
    assert proxy.asked(r"POST /v2/copied/app/blobs/uploads/\?mount=sha256.*from=origin%2Fapp") == 3
    assert proxy.asked("PATCH") == 0  # all of it was mounted from the neighbour
    raw = skopeo(
        "inspect", "--raw", "--tls-verify=false", f"docker://{plain_registry}/copied/app:2"
    )
    assert digest(raw.encode()) == pulled.digest
    asked = len(proxy.requests)
    engine.images.push(name, f"{proxy.address}/copied/app:2")
    methods = [method for method, _, _ in proxy.requests[asked:]]
    assert sorted(methods) == ["HEAD", "HEAD", "HEAD", "PUT"]


@pytest.mark.long
def test_push_of_what_was_made_here(
    own_engine: MakeEngine, layout: Layout, base: bytes, plain_registry: str, tmp_path: Path
) -> None:
    engine = own_engine()
    big = layer([member("noise", os.urandom(20_000_000))])
    engine.images.load(
        layout.image([base, big]).removeprefix("oci:"), name=f"{plain_registry}/made:1"
    )
    engine.images.push(f"{plain_registry}/made:1")
    skopeo(
        "copy", "--src-tls-verify=false", f"docker://{plain_registry}/made:1", f"dir:{tmp_path}/d"
    )
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        assert output(other, f"{plain_registry}/made:1", "echo pulled") == "pulled\n"


def test_an_upload_that_breaks_off_goes_on(
    own_engine: MakeEngine, layout: Layout, base: bytes, proxy: Proxy
) -> None:
    engine = own_engine()
    big = layer([member("noise", os.urandom(20_000_000))])
    name = f"{proxy.address}/broken/push:1"
    engine.images.load(layout.image([base, big]).removeprefix("oci:"), name=name)
    proxy.rules = [Rule("PATCH", times=2, lost=True)]  # taken, or not: nobody knows
    engine.images.push(name)
    assert proxy.asked("GET /v2/broken/push/blobs/uploads/") == 2, "\n".join(proxy.answers)
    assert output(engine, name, "echo fine") == "fine\n"


@pytest.mark.long
def test_push_without_a_layer_that_was_never_fetched(
    own_engine: MakeEngine, proxy: Proxy, base: bytes, tmp_path: Path, plain_registry: str
) -> None:
    """The unpacked layer was there already, from an archive with another compression."""
    engine = own_engine()
    engine.image(Layout(tmp_path / "plain").image([base], compress=bytes))
    upload(f"{Layout(tmp_path / 'gz').image([base])}:1", f"{plain_registry}/gz:1")
    name = f"{proxy.address}/gz:1"
    engine.image(name)
    assert proxy.asked("GET /v2/gz/blobs/") == 0  # the config is the same as well
    with pc.Engine(home=tmp_path / "elsewhere") as other:
        engine.images.save([name], tmp_path / "saved.tar")
        assert other.images.load(tmp_path / "saved.tar") == [name]
        assert output(other, name, "echo whole") == "whole\n"
