"""Arguments of a wrong type: one clear sentence that names the argument, whatever the call."""

from __future__ import annotations

import dataclasses
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest

import pytest_containers as pc
from pytest_containers.builder.options import BuildOptions
from pytest_containers.model import arguments

FIELDS = [field.name for field in dataclasses.fields(pc.ContainerSpec) if field.name != "image"]
OTHERS = {
    "a port": lambda: pc.Port("80"),  # type: ignore[arg-type]
    "a port's protocol": lambda: pc.Port(80, 3),  # type: ignore[arg-type]
    "a bind's source": lambda: pc.Bind(3, "/data"),  # type: ignore[arg-type]
    "a bind's target": lambda: pc.Bind("/srv", 3),  # type: ignore[arg-type]
    "read_only": lambda: pc.Bind("/srv", "/data", "ro"),  # type: ignore[arg-type]
    "a tmpfs' target": lambda: pc.Tmpfs(None),  # type: ignore[arg-type]
    "a tmpfs' size": lambda: pc.Tmpfs("/x", "1g"),  # type: ignore[arg-type]
    "a tmpfs' mode": lambda: pc.Tmpfs("/x", mode="755"),  # type: ignore[arg-type]
    "a tmpfs' uid": lambda: pc.Tmpfs("/x", uid="root"),  # type: ignore[arg-type]
    "a tmpfs' gid": lambda: pc.Tmpfs("/x", gid=-1),
    "a tmpfs' exec": lambda: pc.Tmpfs("/x", exec=1),  # type: ignore[arg-type]
    "a volume": lambda: pc.VolumeMount("data", "/data"),
    "wait.port": lambda: pc.wait.port([80]),  # type: ignore[arg-type]
    "wait.port of a word": lambda: pc.wait.port("eighty"),
    "wait.log": lambda: pc.wait.log(b"ready"),  # type: ignore[arg-type]
    "wait.log's times": lambda: pc.wait.log("ready", 0),
    "wait.tcp": lambda: pc.wait.tcp("80"),  # type: ignore[arg-type]
    "wait.tcp's words": lambda: pc.wait.tcp(80, "hello"),  # type: ignore[arg-type]
    "wait.http's path": lambda: pc.wait.http(80),  # type: ignore[arg-type]
    "wait.http's port": lambda: pc.wait.http(port="80"),  # type: ignore[arg-type]
    "wait.http's status": lambda: pc.wait.http(status="200"),  # type: ignore[arg-type]
    "wait.exec": lambda: pc.wait.exec(3),  # type: ignore[arg-type]
    "wait.file": lambda: pc.wait.file(None),  # type: ignore[arg-type]
    "wait.callable": lambda: pc.wait.callable("ready"),  # type: ignore[arg-type]
    "wait.all_of": lambda: pc.wait.all_of("ready"),  # type: ignore[arg-type]
    "an image": lambda: pc.image_fixture(3),  # type: ignore[arg-type]
    "a build's directory": lambda: pc.build_fixture(3),  # type: ignore[arg-type]
    "a build's tags": lambda: pc.build_fixture(".", tags="app:1"),
    "a volume's size": lambda: pc.volume_fixture(size_bytes="1g"),  # type: ignore[arg-type]
    "an endpoint's name": lambda: pc.endpoint(3, 80),  # type: ignore[arg-type]
    "an endpoint's port": lambda: pc.endpoint("db", "80"),  # type: ignore[arg-type]
    "an endpoint's variables": lambda: pc.endpoint("db", 80, env=["A"]),  # type: ignore[arg-type]
    "a fixture's endpoint": lambda: pc.container_fixture("host:", endpoint=3),
    "a fixture's limit": lambda: pc.container_fixture("host:", seed_timeout_s="1"),
    "a fixture's mounts": lambda: pc.container_fixture("host:", mounts=[3]),
    "a service's variables": lambda: pc.services.Redis(env=["A=1"]),  # type: ignore[arg-type]
    "a service's arguments": lambda: pc.services.Redis(arguments="--port 1"),
    "a service's ports": lambda: pc.services.Redis(ports={6379}),
    "a build's arguments": lambda: BuildOptions(args=["A=1"]),  # type: ignore[arg-type]
    "a build's network": lambda: BuildOptions(network=None),  # type: ignore[arg-type]
    "a build's stage": lambda: BuildOptions(target=3),  # type: ignore[arg-type]
    "a build's cache": lambda: BuildOptions(no_cache="yes"),  # type: ignore[arg-type]
    "an engine's home": lambda: pc.Engine(home=3),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("value", [object(), b"bytes", 1.5j], ids=["object", "bytes", "complex"])
def test_a_field_of_a_container(name: str, value: Any) -> None:
    with pytest.raises(pc.SpecError, match=name) as caught:
        pc.ContainerSpec("host:", **{name: value})
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mounts": [3]}, "mounts: 3 is not a mount; write './data:/data:ro', or a Bind"),
        ({"mounts": "./data:/data"}, "mounts='./data:/data' is not usable; it must be a list"),
        ({"mounts": ["data:/data"]}, "would be a named volume in Docker; write './data:/data'"),
        ({"mounts": ["./data"]}, "write 'SOURCE:TARGET' or 'SOURCE:TARGET:ro'"),
        ({"mounts": ["./data:/data:rx"]}, "is not understood"),
        ({"mounts": ["./data:data"]}, "mount target 'data' is not an absolute path"),
        ({"ready": "ready"}, "it must be a wait such as pytest_containers.wait.log('ready')"),
        ({"ready": pc.wait.http}, "it must be a wait"),
        ({"ports": {8000}}, "ports={8000} is not usable; it must be a list such as [8000"),
        ({"ports": {8000: 80}}, "it must be a list such as"),
        ({"ports": "8000"}, "it must be a list such as"),
        ({"ports": [8000.0]}, "port 8000.0 is not usable"),
        ({"env": {"A": 1}}, "environment variable A: the value must be text"),
        ({"env": None}, "env=a NoneType is not usable; it must be a dictionary of texts"),
        ({"env": ["SECRET=1"]}, "env=a list is not usable"),
        ({"aliases": "db"}, "it must be a list of texts"),
        ({"network": "host"}, "network='host' is not usable; it must be True or False"),
        ({"ulimits": {"nofile": "1024"}}, "resource limit 'nofile': '1024' is not usable"),
        ({"ulimits": {"nofile": (1, 2, 3)}}, "two as (soft, hard)"),
        ({"read_only": "yes"}, "it must be True or False"),
        ({"scratch": "memory"}, "it must be 'auto' or 'tmpfs' or 'disk'"),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),  # equal in all workers
)  # fmt: skip
def test_what_a_field_must_be(options: dict[str, Any], words: str) -> None:
    with pytest.raises(pc.SpecError) as caught:
        pc.ContainerSpec("host:", **options)
    assert words in str(caught.value)


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS.keys())
def test_other_arguments(make: Callable[[], object]) -> None:
    with pytest.raises(pc.SpecError, match="not"):
        make()


def test_values_that_may_be_secrets_are_not_shown() -> None:
    with pytest.raises(pc.SpecError) as caught:
        pc.ContainerSpec("host:", env=["PASSWORD=secret"])  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_every_kind_says_what_it_takes() -> None:
    for name, kind in arguments.KINDS.items():
        assert not kind.accepts(object()), name
        assert kind.description
