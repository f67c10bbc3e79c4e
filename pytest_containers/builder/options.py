"""Build arguments with a meaning of their own: the proxies and the epoch."""

from __future__ import annotations

from dataclasses import replace

from pytest_containers.model.build import EPOCH, BuildOptions

PROXIES = (
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy",
    "NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy",
)  # fmt: skip
"""Arguments that need no ARG and take part in neither the cache key nor the history."""


def with_epoch(options: BuildOptions) -> BuildOptions:
    """Return `options` with the epoch both as a field and as an argument.

    Raises:
        ValueError: The argument ``SOURCE_DATE_EPOCH`` is not a number.
    """
    argument = options.args.get(EPOCH)
    if argument is None and options.epoch is None:
        return options
    if argument is not None and not (argument.isascii() and argument.isdecimal()):
        raise ValueError(f"{EPOCH}={argument} is not a number of seconds since 1970")
    epoch = options.epoch if argument is None else int(argument)
    return replace(options, epoch=epoch, args={**options.args, EPOCH: str(epoch)})
