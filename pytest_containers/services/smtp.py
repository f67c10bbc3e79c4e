"""An SMTP server that keeps what it is sent, for tests to read."""

from __future__ import annotations

import email.policy
import json
import time
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.arguments import check
from pytest_containers.model.errors import WaitTimeoutError, hide_frames
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import directories
from pytest_containers.services.python_service import PythonService
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import SmtpFixture

__tracebackhide__ = hide_frames

_FOLDER = "/var/lib/smtp"
_MESSAGES = f"{_FOLDER}/messages"
_PAUSE_S = 0.01
# A message is in the file before its sender gets the answer.
_SERVER = """
import asyncio, base64, json, signal, sys
from aiosmtpd.smtp import SMTP, AuthResult
path, port, user, password, *refused = sys.argv[1:]
file = open(path, "a")
class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.lower() in refused:
            return "550 5.1.1 mailbox unavailable"
        envelope.rcpt_tos.append(address)
        return "250 OK"
    async def handle_DATA(self, server, session, envelope):
        content = base64.b64encode(envelope.original_content).decode()
        print(json.dumps([envelope.mail_from, envelope.rcpt_tos, content]), file=file, flush=True)
        return "250 OK"
def login(server, session, envelope, mechanism, data):
    accepted = (data.login, data.password) == (user.encode(), password.encode())
    return AuthResult(success=accepted, handled=False)
def protocol():
    options = {"authenticator": login, "auth_required": True} if user else {}
    return SMTP(Handler(), hostname="smtp", auth_require_tls=False, enable_SMTPUTF8=True, **options)
async def serve():
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, ended.set)
    await loop.create_server(protocol, None, int(port))
    await ended.wait()
asyncio.run(serve())
"""


@dataclass(frozen=True, slots=True)
class ReceivedMail:
    """A message that an `Smtp` server has received.

    Attributes:
        sender: The address of MAIL FROM; empty for a bounce.
        recipients: The addresses of RCPT TO, which include those of Bcc.
        content: The bytes of the message, as they were sent.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes

    @property
    def message(self) -> EmailMessage:
        """The parsed message: ``mail.message["Subject"]``, ``mail.message.get_body()`` …"""
        return BytesParser(EmailMessage, policy=email.policy.default).parsebytes(self.content)


class Smtp(PythonService):
    """An SMTP server that delivers nothing: tests read what it has received.

    The server is `aiosmtpd`, in the environment of the tests. It accepts mail of all senders to all
    recipients, without TLS.

    Args:
        user, password: The credentials that clients must log in with; an empty user requires none.
        refused: Addresses of recipients to refuse, with code 550.
        **options: See `Service`.
    """

    number: ClassVar[int] = 1025
    modules: ClassVar[tuple[str, ...]] = ("aiosmtpd",)
    packages: ClassVar[str] = "aiosmtpd"
    scheme: ClassVar[str] = "smtp"

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[SmtpFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        user: str = "",
        password: str = "",
        refused: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(**options)
        check("Smtp", arguments=refused)
        self.user: str = user
        self.password: str = password
        self.refused: tuple[str, ...] = tuple(address.lower() for address in refused)

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        command = [self.python(image), "-c", _SERVER, _MESSAGES, str(self.number)]
        return self.spec(
            [*command, self.user, self.password, *self.refused],
            wait.tcp(self.number, b"", b"220 "),
            env={**self.python_env(image), **self.env},
        )

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that makes the file of the messages."""
        return [directories(self.image, _FOLDER, script=f": >> {_MESSAGES}")]

    @property
    def messages(self) -> list[ReceivedMail]:
        """The messages received so far, in order."""
        lines = self.container.read_bytes(_MESSAGES).splitlines()
        records = [json.loads(line) for line in lines]
        return [
            ReceivedMail("" if sender == "<>" else sender, tuple(recipients), b64decode(content))
            for sender, recipients, content in records
        ]

    def wait_for_messages(self, count: int = 1, timeout_s: float = 10.0) -> list[ReceivedMail]:
        """Return the messages once there are `count`, for code that sends in the background.

        Raises:
            WaitTimeoutError: There are fewer after `timeout_s` seconds.
        """
        end = time.monotonic() + timeout_s
        while len(messages := self.messages) < count:
            if time.monotonic() > end:
                raise WaitTimeoutError(
                    f"{self.name!r} has received {len(messages)} messages of {count}",
                    timeout_s=timeout_s,
                )
            time.sleep(_PAUSE_S)
        return messages

    def clear(self) -> None:
        """Forget all messages received so far."""
        # Emptied in place: the server keeps appending to the same file.
        self.exec(["truncate", "-s", "0", _MESSAGES], check=True)
