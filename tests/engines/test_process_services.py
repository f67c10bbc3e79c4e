"""Which services run with the process engine, as the reference says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pytest_containers as pc
from pytest_containers.engines.choose import create_engine
from pytest_containers.linux import landlock
from pytest_containers.model.engine import Engine

pytestmark = pytest.mark.skipif(not landlock.version(), reason="the kernel has no Landlock")

NEEDS = {
    "Postgres": "postgresql", "MariaDB": "mariadb", "Redis": "redis", "Memcached": "memcached",
    "Nats": "nats", "Mosquitto": "mosquitto", "Etcd": "etcd", "Nginx": "nginx",
    "RabbitMQ": "rabbitmq", "OpenLDAP": "openldap", "InfluxDB": "influxdb", "HAProxy": "haproxy",
    "PgBouncer": "pgbouncer", "Bind9": "bind9", "Beanstalkd": "beanstalkd",
    "Chromium": "chromium", "ZooKeeper": "zookeeper", "DockerRegistry": "docker-registry",
    "Smtp": "smtp",
}  # fmt: skip
REFUSED = {
    "OpenSSH": ("openssh", "OpenSSH makes an account in /etc/passwd, which is the machine's here"),
    "Squid": ("squid", "Squid keeps an index in shared memory in /dev/shm/own-squid, which is the"),
}
SLOW = ("RabbitMQ", "ZooKeeper", "Chromium")
DEAR = ("RabbitMQ",)  # its start takes two processors for seconds; its state is a first one


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with create_engine("process", home=tmp_path_factory.mktemp("home")) as engine:
        yield engine


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[
                pytest.mark.needs(needs),
                *([pytest.mark.slow] if name in SLOW else []),
                *([pytest.mark.long] if name in DEAR else []),
            ],
        )
        for name, needs in NEEDS.items()
    ],
)
def test_a_service_of_this_machine_runs_twice(engine: Engine, name: str) -> None:
    """The second one starts from the stored files of the first, at another place."""
    kind = getattr(pc.services, name)
    services = [kind(image="host:").start(engine) for _ in range(1 if name in DEAR else 2)]
    assert len({service.host for service in services}) == len(services)
    for service in services:
        service.container.connect(service.port).close()
        service.container.remove()


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        pytest.param(name, sentence, marks=pytest.mark.needs(needs))
        for name, (needs, sentence) in REFUSED.items()
    ],
)
def test_a_service_that_cannot_run_says_why(engine: Engine, name: str, sentence: str) -> None:
    with pytest.raises(pc.UnsupportedError, match=f"{sentence}.*use engine 'native'"):
        getattr(pc.services, name)(image="host:").start(engine)


def test_the_reference_names_all_of_them() -> None:
    guide = Path(__file__).parents[2] / "docs" / "reference" / "engines.md"
    if not guide.exists():
        pytest.skip("needs a checkout, with docs/reference/engines.md")
    rows = dict(re.findall(r"^\| `(\w+)` \| (yes|no)", guide.read_text(), re.M))
    kinds = {**dict.fromkeys(NEEDS, "yes"), **dict.fromkeys(REFUSED, "no")}
    assert {name: rows.get(name) for name in kinds} == kinds
