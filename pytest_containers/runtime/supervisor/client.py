"""A test process: what it may ask for, and what goes with it when it ends.

Each operation is a method ``op_NAME``; its docstring lists the request's fields and what the
answer carries. An operation answers once unless it says otherwise.
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pytest_containers.linux.files import open_in_root
from pytest_containers.runtime.channel import Channel, Frame
from pytest_containers.runtime.messages import Fault, FaultError, fault, from_os_error
from pytest_containers.runtime.network.dial import dial, dial_inside
from pytest_containers.runtime.network.networks import Network
from pytest_containers.runtime.peer import Peer
from pytest_containers.runtime.supervisor.container import SIGKILL, Container
from pytest_containers.runtime.supervisor.execution import Execution
from pytest_containers.runtime.supervisor.network import RunNetwork
from pytest_containers.runtime.supervisor.shares import told
from pytest_containers.runtime.supervisor.start import Start
from pytest_containers.runtime.supervisor.volumes import File, Volume

if TYPE_CHECKING:
    from pytest_containers.runtime.supervisor.server import Server

_SHORT_BYTES = 1 << 16
Cancel = Callable[[], None]


class Client:
    """One test process. Its containers, networks and volumes end with it.

    Args:
        server: The run.
        channel: Connected to it.
        pidfd: Of it: a process that it forked may carry the channel on.
        gone: Called when it has ended and its containers are being removed.
    """

    def __init__(
        self, server: Server, channel: Channel, pidfd: int, gone: Callable[[], object]
    ) -> None:
        self.server = server
        self.peer: Peer = Peer(server.loop, channel, self._handle, self._lost)
        self.containers: dict[str, Container] = {}
        self.networks: dict[str, RunNetwork] = {}
        self._volumes: dict[str, Volume] = {}
        self._executions: dict[int, Execution] = {}
        self._cancels: dict[int, Cancel] = {}
        self._endpoints: set[str] = set()
        self._pidfd = pidfd
        self._gone = gone
        self._ended = False
        server.loop.add_reader(pidfd, self._lost)

    def _handle(self, peer: Peer, frame: Frame) -> None:
        number = frame.body.get("id", -1)
        try:
            operation = getattr(self, f"op_{frame.body['op']}", None)
            if operation is None:
                raise FaultError("ContainersError", f"no operation {frame.body['op']!r}")
            operation(number, frame.body, frame)
        except FaultError as error:
            peer.refuse(number, error.fault)
        except OSError as error:
            peer.refuse(number, from_os_error("StartError", f"{frame.body['op']}", error))
        except Exception as error:  # noqa: BLE001 - one client's mistake is not the others' end
            sys.excepthook(*sys.exc_info())
            what = f"{frame.body.get('op')}: {type(error).__name__}: {error}"
            peer.refuse(number, fault("ContainersError", f"a defect of pytest-containers: {what}"))

    def _lost(self) -> None:
        """The process or its connection has ended."""
        if self._ended:
            return
        self._ended = True
        self.peer.close()
        self.server.loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        for cancel in list(self._cancels.values()):
            cancel()
        for execution in list(self._executions.values()):
            execution.kill(SIGKILL)
        for container in list(self.containers.values()):
            self.remove_container(container, lambda: None)
        if self._endpoints:
            self.server.launcher.request(
                {"op": "endpoint_close", "keys": sorted(self._endpoints)}, lambda frame: None
            )
        self.server.shares.lost(self)
        for volume in self._volumes.values():
            volume.close()
        for network in self.networks.values():
            self._drop_network(network)
        self._gone()

    # -------------------------------------------------------------- helpers

    def later(self, number: int, cancel: Cancel) -> None:
        """Request `number` is answered later; `cancel` gives it up."""
        self._cancels[number] = cancel

    def finish(
        self, number: int, ok: Any = None, fds: tuple[int, ...] = (), blob: bytes = b""
    ) -> None:
        """Answer a request that was put off."""
        self._cancels.pop(number, None)
        self.peer.answer(number, ok, fds, blob)

    def fail(self, number: int, why: Fault) -> None:
        """Refuse a request that was put off."""
        self._cancels.pop(number, None)
        self.peer.refuse(number, why)

    def settle(self, number: int, result: Fault | None) -> None:
        """Answer with nothing, or with what went wrong."""
        if result is None:
            self.finish(number)
        else:
            self.fail(number, result)

    def _container(self, body: dict[str, Any]) -> Container:
        return self.server.require(body["container"])

    def volume(self, number: str) -> Volume:
        """A volume of this client."""
        try:
            return self._volumes[number]
        except KeyError:
            raise FaultError("StartError", f"volume {number} was removed") from None

    # ----------------------------------------------------- images, networks

    def op_image(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``image`` (see `Trees.make_ready`): attach what it needs.

        Descriptor: a lock on it, which is kept as long as the run lives.
        """
        for fd in frame.fds:
            self.server.trees.hold(body["image"]["key"], fd)
        self.server.trees.make_ready(body["image"], lambda result: self.settle(number, result))

    def op_network_create(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``parents`` (ids); answers the id."""
        server = self.server
        if server.machine.host_network:
            raise FaultError("StartError", "this run has no networks but the host's")
        parents = [server.networks_by_id[one] for one in body["parents"]]

        def made(network: Network | Fault) -> None:
            if isinstance(network, Fault):
                self.fail(number, network)
                return
            run_network = RunNetwork(server.new_id(), network, parents)
            if self._ended:
                self._drop_network(run_network)
                return
            server.networks_by_id[run_network.id] = run_network
            self.networks[run_network.id] = run_network
            self.finish(number, run_network.id)

        server.networks.create([parent.network for parent in parents], made)

    def op_network_remove(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``network``; unknown ones are gone already. Its last containers may still be dying."""
        network = self.networks.pop(body["network"], None)
        if network is not None and network.dying:
            doomed = network
            network.when_quiet = lambda: self._drop_network(doomed)
        elif network is not None:
            self._drop_network(network)
        self.peer.answer(number)

    def _drop_network(self, network: RunNetwork) -> None:
        network.detach()
        self.server.networks_by_id.pop(network.id, None)
        self.server.networks.remove(network.network)

    def op_volume_create(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``size_bytes`` or null, maybe ``files``; answers the id.

        ``files``: [[size, mode, uid, gid]]; they are called by their numbers, and the blob is what
        is in them.
        """
        files: list[File] = []
        at = 0
        for size, mode, uid, gid in body.get("files", ()):
            files.append(File(str(len(files)), frame.blob[at : at + size], mode, uid, gid))
            at += size
        volume = Volume(self.server.root, self.server.new_id(), body.get("size_bytes"), files)
        self._volumes[volume.id] = volume
        self.peer.answer(number, volume.id)

    def op_volume_remove(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``volume``."""
        volume = self._volumes.pop(body["volume"], None)
        if volume is not None:
            volume.close()
        self.peer.answer(number)

    # ----------------------------------------------------------- containers

    def op_run(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """See `Start`; the blob is the OCI config. Answers once the program runs."""
        Start(self, number, body, frame.blob)

    def op_wait(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``; answers when it has ended: exit code, and whether its output comes along.

        Then the blob is all of it (as in `op_logs`), and there will be no more: it was short, and
        nobody can write any more.
        """
        container = self._container(body)

        def done(code: int) -> None:
            log = container.log
            whole = not log.open and log.end <= _SHORT_BYTES
            self.finish(number, [code, whole], (), log.since(0)[1] if whole else b"")

        self.later(number, lambda: container.forget_waiter(done))
        container.when_exited(done)

    def op_list(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """Answers the ids of this client's containers."""
        self.peer.answer(number, list(self.containers))

    def op_inspect(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``; answers its state and exit code."""
        container = self._container(body)
        self.peer.answer(number, {"state": container.state, "exit_code": container.exit_code})

    def op_signal(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``signum``: to its program."""
        self._container(body).signal(body["signum"])
        self.peer.answer(number)

    def op_stop(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``signum``, ``timeout_s``, then SIGKILL; answers the exit code."""
        container = self._container(body)
        loop = self.server.loop
        if container.state == "paused":
            container.unpause()
        if container.exit_code is None:
            container.signal(body["signum"])

        def kill() -> None:
            if container.main is not None:
                container.main.kill(SIGKILL)

        timer = loop.call_later(body["timeout_s"], kill)

        def done(code: int) -> None:
            loop.cancel(timer)
            self.finish(number, code)

        self.later(number, lambda: container.forget_waiter(done))
        container.when_exited(done)

    def op_pause(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``."""
        self._container(body).pause()
        self.peer.answer(number)

    def op_unpause(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``."""
        self._container(body).unpause()
        self.peer.answer(number)

    def op_remove(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``; answers when nothing of it is left. Unknown ones are gone already."""
        container = self.containers.get(body["container"])
        if container is None:
            self.peer.answer(number)
        else:
            self.remove_container(container, lambda: self.finish(number))

    def remove_container(self, container: Container, gone: Callable[[], None]) -> None:
        """Kill a container and forget it; `gone` is called when nothing of it is left."""
        self.containers.pop(container.id, None)
        self.server.containers.pop(container.id, None)
        self.server.left(container)
        network = container.network
        left = 2

        def one_less() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                gone()

        def removed() -> None:
            if network is not None:
                network.gone()
            one_less()

        if network is not None:
            network.dying += 1
        self.server.close_ports(container, one_less)
        container.remove(removed)

    def op_restart(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, which has ended, and its blob and fields of ``run`` again."""
        Start(self, number, body, frame.blob, again=self._container(body))

    # ---------------------------------------------------------------- shared

    def op_share_claim(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``key``; answers what was published: ``{"ok": …}`` or ``{"error": fault}``.

        Null tells this client to make it and to publish it then.
        """

        def answer(result: Any) -> None:
            self.finish(number, None if result is None else told(result))

        shares = self.server.shares
        self.later(number, lambda: shares.gave_up(self, answer))
        shares.claim(body["key"], self, answer)

    def op_share_publish(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``key``, and ``container``, ``network``, ``result``, or ``error``: a fault.

        Container and network are the controller's from now on: they outlive this client.
        """
        if "error" in body:
            self.server.shares.publish(body["key"], Fault(*body["error"]))
            self.peer.answer(number)
            return
        owner = self.server.controller
        container = self._container(body)
        owner.containers[container.id] = self.containers.pop(container.id)
        network = body["network"]
        owner.networks[network] = self.networks.pop(network)
        self.server.shares.publish(body["key"], body["result"])
        self.peer.answer(number)

    # -------------------------------------------------------------- endpoints

    def op_endpoint(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``key``; descriptor: a bound socket. Nobody is led anywhere yet."""
        self._endpoints.add(body["key"])
        self._ask_launcher(number, {"op": "endpoint", "key": body["key"]}, frame.fds)

    def op_endpoint_target(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``key``, ``container`` or null, ``port``; answers how many were refused before."""
        target = None
        if body["container"] is not None:
            port = self._container(body).port
            if port is None:
                raise FaultError("SpecError", "an endpoint needs a container with a network")
            target = [port.ip, body["port"]]
        request = {"op": "endpoint_target", "key": body["key"], "target": target}
        self._ask_launcher(number, request, ())

    def _ask_launcher(self, number: int, request: dict[str, Any], fds: Sequence[int]) -> None:
        def done(result: Frame | Fault) -> None:
            if isinstance(result, Fault):
                self.fail(number, result)
            else:
                self.finish(number, result.body["ok"])

        self.server.launcher.request(request, done, fds)
        for fd in fds:
            os.close(fd)

    # ----------------------------------------------------------------- exec

    def op_exec(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``user``, ``groups``, ``stdin``, ``args`` (as in `Start`), blob: an OCI
        process object.

        Answers twice: with descriptors of the streams once the child is made, and with the exit
        code. `exec_signal` reaches it in between.
        """
        execution = Execution(self, number, body, frame.blob)
        execution.start()
        self._executions[number] = execution

    def forget_execution(self, number: int) -> None:
        """An exec has ended."""
        self._executions.pop(number, None)

    def op_exec_signal(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``exec`` (the number of its request), ``signum``; one that has ended is ignored."""
        execution = self._executions.get(body["exec"])
        if execution is not None:
            execution.kill(body["signum"])
        self.peer.answer(number)

    # ----------------------------------------------------------------- logs

    def op_logs(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``position``, ``wait``; answers records as `Log.since` makes them.

        The answer is ``[next position, whether more can come]``. With ``wait`` it is put off
        until there is something after ``position``, or nothing can come any more.
        """
        container = self._container(body)
        log, position = container.log, body["position"]
        if container.exit_code is None:
            log.drain()

        def more() -> bool:
            return container.exit_code is None or log.open

        def reply() -> None:
            following, blob = log.since(position)
            self.finish(number, [following, more() or following < log.end], (), blob)

        if not body["wait"] or log.end > position or not more():
            reply()
            return

        loop = self.server.loop
        loop.waiting()

        def changed() -> None:
            if log.end > position or not more():
                give_up()
                reply()

        def ended(code: int) -> None:
            changed()

        def give_up() -> None:
            loop.waited()
            log.unlisten(changed)
            container.forget_waiter(ended)

        self.later(number, give_up)
        log.listen(changed)
        container.when_exited(ended)

    # -------------------------------------------------------------- network

    def op_listening(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``ports`` [[number, protocol]], ``timeout_s``.

        Answers ``{"missing": [...]}`` (empty: all are there) or ``{"exited": code}``.
        """
        container = self._container(body)
        netns = self.server.netns_of(container)
        answered: list[bool] = []

        def done(missing: list[tuple[int, str]] | None) -> None:
            answered.append(True)
            container.forget_waiter(ended)
            self.finish(number, {"missing": missing or []})

        def ended(code: int) -> None:
            handle.cancel()
            self.finish(number, {"exited": code})

        ports = [(port, protocol) for port, protocol in body["ports"]]
        handle = self.server.listening.wait(
            netns, self.server.net_ns, ports, body["timeout_s"], done
        )

        def cancel() -> None:
            handle.cancel()
            container.forget_waiter(ended)

        if not answered:
            self.later(number, cancel)
            container.when_exited(ended)

    def op_connect(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``port``, ``protocol``, ``timeout_s``; answers a connected socket.

        From outside if the port can be reached so, else from inside by the loopback device.
        """
        container = self._container(body)
        server, port, timeout_s = self.server, body["port"], body["timeout_s"]
        protocol = body["protocol"]

        def reply(result: socket.socket | Fault) -> None:
            if isinstance(result, Fault):
                self.fail(number, result)
                return
            with result:
                self.finish(number, None, (result.fileno(),))

        def inside(result: socket.socket | Fault) -> None:
            if isinstance(result, Fault) and container.exit_code is None:
                netns = server.netns_of(container)
                dial_inside(server.loop, netns, server.net_ns, protocol, port, timeout_s, reply)
            else:
                reply(result)

        if container.port is None:
            inside(fault("StartError", f"container {container.name!r} has no network"))
        else:
            dial(server.loop, protocol, container.port.ip, port, timeout_s, inside)

    # ---------------------------------------------------------------- files

    def op_open(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``container``, ``path``, ``flags``, ``mode``; answers a descriptor of a regular file."""
        container = self._container(body)
        root = container.open_root()
        path, flags = body["path"], body["flags"]
        try:
            fd = open_in_root(root, path, flags | os.O_NONBLOCK | os.O_NOCTTY, body["mode"])
        except OSError as error:
            raise FaultError(
                "ContainersError", f"{path} in container {container.name!r}: {error.strerror}",
                errno=error.errno, path=path,
            ) from None  # fmt: skip
        finally:
            os.close(root)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise FaultError(
                    "ContainersError", f"{path} in container {container.name!r} is not a file",
                    path=path,
                )  # fmt: skip
            self.peer.answer(number, None, (fd,))
        finally:
            os.close(fd)

    def op_job(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``function``, ``args``, ``search_path``, maybe ``container``: see `launcher.jobs`.

        With ``container``, its root comes before the request's own descriptors; with ``upper_of``,
        the upper directory of a container does. Behind them come ``views``: the roots of images.
        """
        fds = [*frame.fds, *(self.server.trees.view(key) for key in body.get("views", ()))]
        if body.get("upper_of"):
            fds.insert(0, self._container({"container": body["upper_of"]}).open_upper())
        if body.get("container"):
            fds.insert(0, self._container(body).open_root())

        request = {key: body[key] for key in ("function", "args", "search_path")}
        self._ask_launcher(number, {"op": "job", **request}, fds)

    # ---------------------------------------------------------------- other

    def op_adopt(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """Descriptors: a socket and a pidfd of another test process, which it serves."""
        sock, pidfd = frame.fds
        self.server.add_client(socket.socket(fileno=sock), pidfd)
        self.peer.answer(number)

    def op_cancel(self, number: int, body: dict[str, Any], frame: Frame) -> None:
        """``request``: give it up; it gets no answer any more."""
        cancel = self._cancels.pop(body["request"], None)
        if cancel is not None:
            cancel()
        self.peer.answer(number)
