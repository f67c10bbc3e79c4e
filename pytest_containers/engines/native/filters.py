"""The filter of a container's system calls, as the run takes it.

It is compiled here, since the supervisor sees no files of ours any more when it serves. What most
containers have is there compiled already (`runtime.seccomp.builtin`) and has a name only.
"""

from __future__ import annotations

import functools
from binascii import b2a_base64
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from pytest_containers.linux import seccomp
from pytest_containers.linux.numbers import MACHINE
from pytest_containers.model.errors import SpecError, UnsupportedError, hide_frames
from pytest_containers.model.security import seccomp_option
from pytest_containers.model.spec import ContainerSpec
from pytest_containers.runtime.plan.oci import DEFAULT_CAPABILITIES
from pytest_containers.runtime.wire.faults import FaultError
from pytest_containers.runtime.wire.operations.starts import SyscallFilter

if TYPE_CHECKING:
    from pytest_containers.runtime.seccomp.policy import Policy

__tracebackhide__ = hide_frames

_BUILTIN = SyscallFilter()
_DOCKERS = frozenset(DEFAULT_CAPABILITIES)


def filter_of(spec: ContainerSpec, capabilities: Collection[str]) -> SyscallFilter | None:
    """Return the filter of a container's system calls; None if nothing is to be filtered.

    Args:
        spec: The container.
        capabilities: What it is granted, on which the default policy and profiles depend.

    Raises:
        SpecError: Its profile cannot be read, or is wrong.
        UnsupportedError: It has a profile and the kernel has no filters.
    """
    value = seccomp_option(spec.security_opt)
    if value == "unconfined" or (spec.privileged and not value):
        return None
    if value not in ("", "builtin"):
        from pytest_containers.engines.native.profiles import read_profile

        document, where = read_profile(value, frozenset(capabilities))
        return filter_of_document(document, where)
    if not seccomp.available():
        return None
    granted = frozenset(capabilities)
    return _BUILTIN if granted == _DOCKERS else _default(granted)


def filter_of_document(document: Mapping[str, Any], where: str) -> SyscallFilter | None:
    """Return the filter for ``linux.seccomp`` of an OCI config; None if it allows everything.

    Args:
        document: The policy.
        where: What messages call it.

    Raises:
        SpecError: It has something unknown, wrong or not supported.
        UnsupportedError: The kernel has no filters.
    """
    # Imported here, since few containers need a compiler.
    from pytest_containers.runtime.seccomp.policy import policy_of

    try:
        policy = policy_of(document, where)
        if not policy.filters:
            return None
        if not seccomp.available():
            raise UnsupportedError(
                f"{where}: this kernel has no filters of system calls (CONFIG_SECCOMP_FILTER); "
                "pass security_opt=['seccomp=unconfined']"
            )
        return _compiled(policy)
    except FaultError as error:
        raise SpecError(str(error)) from None


@functools.lru_cache(maxsize=64)
def _default(capabilities: frozenset[str]) -> SyscallFilter:
    from pytest_containers.runtime.seccomp.default import default_policy

    return _compiled(default_policy(capabilities, MACHINE))


@functools.lru_cache(maxsize=64)
def _compiled(policy: Policy) -> SyscallFilter:
    from pytest_containers.runtime.seccomp.compiler import compile_filter

    code = b2a_base64(compile_filter(policy, MACHINE), newline=False).decode()
    return SyscallFilter(code=code, flags=policy.flags)
