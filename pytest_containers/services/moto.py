"""Moto, which answers as AWS does: S3, SQS, DynamoDB and others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.arguments import check
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories
from pytest_containers.services.python_service import PythonService
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import MotoFixture


_FOLDER = "/var/lib/moto"
_REQUESTS = f"{_FOLDER}/requests"
# Its data is in memory: a seed and a snapshot are the requests so far, which are made again before
# the port is open.
_SERVER = """
import os, sys, urllib.request
from moto.server import ThreadedMotoServer, main
path, port, region, *buckets = sys.argv[1:]
def send(server, path, method, body=b""):
    host, number = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{number}{path}", body, method=method)
    urllib.request.urlopen(request).close()
first = os.path.getsize(path) == 0
if buckets or not first:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    if not first:
        send(server, "/moto-api/recorder/replay-recording", "POST")
    else:
        place = f"<LocationConstraint>{region}</LocationConstraint>"
        body = f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>".encode()
        for bucket in buckets:
            send(server, f"/{bucket}", "PUT", b"" if region == "us-east-1" else body)
    server.stop()
main(["-H", "0.0.0.0", "-p", port])
"""


class Moto(PythonService):
    """A Moto server, which has the APIs of AWS at one address: S3, SQS, SNS, DynamoDB, IAM …

    It accepts any credentials. Its data is in memory; a seed and a snapshot keep the requests,
    which are made again at a start, so names stay and ids that the server makes up differ.

    Args:
        buckets: S3 buckets to make.
        region: The region of `environment` and of the buckets.
        **options: See `Service`.

    Attributes:
        access_key, secret_key: Credentials that clients may use.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 5000
    modules: ClassVar[tuple[str, ...]] = ("moto", "flask", "flask_cors", "boto3")
    packages: ClassVar[str] = "moto[s3] flask flask-cors"
    scheme: ClassVar[str] = "http"
    port_variables: ClassVar[tuple[str, ...]] = ("MOTO_PORT",)
    access_key: str = "test"
    secret_key: str = "test"

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[MotoFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self, *, buckets: Sequence[str] = (), region: str = "us-east-1", **options: Any
    ) -> None:
        super().__init__(**options)
        check("Moto", arguments=buckets)
        self.buckets: tuple[str, ...] = tuple(buckets)
        self.region: str = region

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        command = [self.python(image), "-c", _SERVER, _REQUESTS, str(self.number), self.region]
        env = {"MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": _REQUESTS}
        return self.spec(
            [*command, *self.buckets],
            wait.http("/moto-api/", port=self.number),
            env={**self.python_env(image), **env, **self.env},
        )

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that makes the file of the requests."""
        return [directories(self.image, _FOLDER, script=f": >> {_REQUESTS}")]

    @property
    def environment(self) -> dict[str, str]:
        """The variables from which boto3 and the command line of AWS take address and login."""
        return {
            "AWS_ENDPOINT_URL": self.url(),
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": self.region,
        }
