"""OpenSSH's server, for SSH and SFTP."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Unpack

from pytest_containers.model import wait
from pytest_containers.model.engine import Container
from pytest_containers.model.image import Image
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.services.base import writing
from pytest_containers.services.service import Service
from pytest_containers.services.steps import require_ids, require_own_files
from pytest_containers.state.warm import Stage

if TYPE_CHECKING:
    from pytest_containers.services.options import OpenSSHFixture


_CONFIG, _HOST_KEY, _USER_KEY = "/etc/ssh/own_config", "/etc/ssh/own_host_key", "/etc/ssh/own_key"
_OWN = f"""
Port 22
HostKey {_HOST_KEY}
PidFile none
UsePAM no
UseDNS no
PermitRootLogin yes
AuthorizedKeysFile {_USER_KEY}.pub
StrictModes no
AcceptEnv *
LogLevel VERBOSE
Subsystem sftp internal-sftp
"""
_ACCOUNT = """
mkdir -p /run/sshd /etc/ssh /home
id "$1" >/dev/null 2>&1 || useradd --create-home --shell /bin/sh "$1"
printf '%s:%s\\n' "$1" "$2" | chpasswd --crypt-method SHA512
"""
# The image may be a snapshot, which has keys.
_KEYS = f"""
for key in {_HOST_KEY} {_USER_KEY}; do
    [ -e $key ] || ssh-keygen -q -t ed25519 -N '' -C '' -f $key
done
"""


class OpenSSH(Service):
    """An OpenSSH server, for SSH and SFTP.

    Clients log in with the password or with `private_key`, both of which, like the key of the
    server, are the same for every test. The account is made unless the image has it.

    Args:
        user, password: The account, with its home directory below ``/home``.
        sftp_only: Allow SFTP, and neither commands nor forwarding.
        **options: See `Service`.
    """

    reference: ClassVar[str] = "host:"
    number: ClassVar[int] = 22
    programs: ClassVar[tuple[str, ...]] = ("sshd", "ssh-keygen", "useradd", "chpasswd")
    packages: ClassVar[str] = "openssh-server"
    scheme: ClassVar[str] = "sftp"
    port_options: ClassVar[tuple[str, ...]] = ("-p", "-o Port", "-oPort")
    clean: ClassVar[bool] = False  # its exit code after the stop signal is 255

    if TYPE_CHECKING:

        @classmethod
        def fixture(cls, **options: Unpack[OpenSSHFixture]) -> Any:
            """Make a fixture; see `Service.fixture`."""

    def __init__(
        self,
        *,
        user: str = "test",
        password: str = "test",
        sftp_only: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.user: str = user
        self.password: str = password
        self.sftp_only: bool = sftp_only

    def serve(self, image: Image) -> ContainerSpec:
        """Return the spec of the server."""
        only = ["-o", "ForceCommand=internal-sftp", "-o", "DisableForwarding=yes"]
        # It starts itself again for each connection, by its absolute path.
        start = f'exec "$(command -v sshd)" -D -e -f {_CONFIG} "$@"'
        ready = wait.tcp(self.number, b"", b"SSH-2.0-")
        words = only if self.sftp_only else []
        return self.spec(["sh", "-c", start, "sshd", *words], ready, env=self.env)

    def prepare(self, image: Image) -> Sequence[Stage]:
        """Return the stage that makes the account and the keys."""
        script = (
            f"set -e; set -- {shlex.quote(self.user)} {shlex.quote(self.password)}; {_ACCOUNT}"
            f"{writing(_CONFIG, _OWN)}; {_KEYS}"
        )

        def act(container: Container) -> None:
            require_ids(container, "OpenSSH")
            require_own_files(container, "OpenSSH makes an account", "/etc/passwd")
            container.exec(["sh", "-c", script], check=True)

        spec = ContainerSpec(self.image, ["sleep", "infinity"], entrypoint=())
        return [Stage("account and keys", spec, act, {"the account": script}, traced=False)]

    @property
    def private_key(self) -> str:
        """The private key of `user`, an Ed25519 key in the format of OpenSSH without passphrase."""
        return self.container.read_text(_USER_KEY)

    @property
    def host_key(self) -> str:
        """The public key of the server, ``"ssh-ed25519 AAAA…"``, as in ``known_hosts``."""
        return self.container.read_text(f"{_HOST_KEY}.pub").strip()

    @property
    def known_hosts(self) -> str:
        """The line of a ``known_hosts`` file for this server at `host` and `port`."""
        name = self.host if self.port == 22 else f"[{self.host}]:{self.port}"
        return f"{name} {self.host_key}\n"

    def version_command(self) -> list[str]:
        """Return the command that prints the version."""
        return ["sh", "-c", "ssh -V 2>&1"]
