"""Parametrized container fixtures, and fixtures in asynchronous suites."""

from __future__ import annotations

import pytest

import pytest_containers as pc


@pytest.mark.needs("redis")
def test_parameters_are_images_or_options(run) -> None:
    result = run(
        """
cache = pc.services.Redis.fixture(
    image="host:", params=["host:?path=/usr/share", {}, pytest.param({"database": 3}, id="third")]
)
plain = pc.container_fixture(
    "host:", ["sh", "-c", "echo $WORD; sleep 60"],
    params=[{"env": {"WORD": "one"}, "ready": pc.wait.log("one")}, {"command": ["sleep", "60"]}],
    ids=["first", "second"],
)

def test_service(cache, request):
    assert cache.command("PING") == "PONG"
    assert cache.command("DBSIZE") == "0"
    assert cache.url().endswith("/3") == ("third" in request.node.name)
    assert cache.command("SET", "k", "1") == "OK"

@pytest.mark.parametrize("cache", [{"password": "secret"}], indirect=True)
def test_indirect(cache):
    assert "secret" in cache.url()

def test_container(plain, request):
    assert plain.logs().stdout == ("one\\n" if "first" in request.node.name else "")
""",
        "-v",
    )
    result.assert_outcomes(passed=6)
    ids = ["host:?path=/usr/share", "cache1", "third", "cache0", "first", "second"]
    assert [name for name in ids if f"[{name}] PASSED" not in result.stdout.str()] == []


def test_a_parameter_that_is_neither_is_an_error() -> None:
    for parameter in (3, ["host:"], {"image": 3}):
        with pytest.raises(pc.SpecError, match="it must be an image, or a dictionary of options"):
            pc.services.Redis.fixture(params=[parameter])
    with pytest.raises(pc.SpecError, match="no option 'databse', did you mean 'database'"):
        pc.services.Redis.fixture(params=[{"databse": 3}])
    with pytest.raises(pc.SpecError, match="'portss' is not an option of a container"):
        pc.container_fixture("host:", params=[{"portss": [1]}])
    with pytest.raises(pc.SpecError, match="changes the URL, which the endpoint has announced"):
        pc.services.Redis.fixture(endpoint="VARIANTS_URL", params=[{"password": "secret"}])


def test_an_asynchronous_description_is_an_error_with_the_way() -> None:
    async def api() -> pc.ContainerSpec:
        return pc.ContainerSpec("host:")

    async def generator():
        yield pc.ContainerSpec("host:")

    for function in (api, generator):
        with pytest.raises(pc.SpecError, match="await in an asynchronous fixture that requests"):
            pc.container_fixture(function)


ASYNCHRONOUS = """
import asyncio
site = pc.container_fixture(
    "host:", ["python3", "-m", "http.server", "8000"], ports=[8000]
)

def described():
    async def later():
        return pc.ContainerSpec("host:")
    return later()

late = pc.container_fixture(described)

{fixture}
async def client(site):
    reader, writer = await asyncio.open_connection(*site.address(8000))
    yield reader, writer
    writer.close()

{mark}
async def test_it(client):
    reader, writer = client
    writer.write(b"HEAD / HTTP/1.0\\r\\n\\r\\n")
    assert b"200 OK" in await reader.readline()

{mark}
async def test_late(late): pass
"""


@pytest.mark.parametrize(
    ("plugin", "fixture", "mark"),
    [
        (
            "asyncio",
            "import pytest_asyncio\n@pytest_asyncio.fixture",
            "@pytest.mark.asyncio",
        ),
        ("anyio", "@pytest.fixture", "@pytest.mark.anyio"),
    ],
)
def test_fixtures_work_in_asynchronous_suites(run, plugin: str, fixture: str, mark: str) -> None:
    pytest.importorskip("pytest_asyncio" if plugin == "asyncio" else plugin)
    code = ASYNCHRONOUS.format(fixture=fixture, mark=mark)
    if plugin == "anyio":
        code += '\n@pytest.fixture\ndef anyio_backend():\n    return "asyncio"\n'
    settings = ["asyncio_default_fixture_loop_scope=function"] if plugin == "asyncio" else []
    result = run(code, "-p", plugin, *(word for line in settings for word in ("-o", line)))
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*container fixture 'described' is an async def*"])
    assert "never awaited" not in result.stdout.str()
