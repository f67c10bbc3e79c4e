"""What ADD fetches: files by http, and git repositories."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from pytest_containers.builder.context import Context
from pytest_containers.builder.dockerfile.ignore import Patterns
from pytest_containers.builder.filedigests import FileDigests
from pytest_containers.images.store import records
from pytest_containers.images.store.store import Store, storing
from pytest_containers.model.errors import BuildError, hide_frames

__tracebackhide__ = hide_frames

_CHUNK_BYTES = 1 << 20
_TIMEOUT_S = 60.0
_GIT_TIMEOUT_S = 600.0
_GIT = re.compile(r"(?:git://|ssh://|git@[^/:]+:|https?://[^#?]+\.git(?:$|[#?]))")
_COMMIT = re.compile(r"(?:sha1:)?[0-9a-f]{7,64}\Z")
_GIT_KEYS = (
    "ref", "branch", "tag", "commit", "checksum", "subdir", "keep-git-dir", "submodules",
)  # fmt: skip
_GIT_SWITCHES = ("keep-git-dir", "submodules")
_GIT_NAMES = {"branch": "ref", "tag": "ref", "commit": "checksum"}
_GIT_FOLDERS = {"branch": "refs/heads/", "tag": "refs/tags/"}
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")
_HASH_DIGITS = 40
_UMASK = 0o022
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


def is_remote(source: str) -> bool:
    """Return whether a source of ADD is an address."""
    return source.startswith(("http://", "https://")) or is_git(source)


def is_git(source: str) -> bool:
    """Return whether an address is of a git repository."""
    return _GIT.match(source) is not None


class Repository(NamedTuple):
    """The parts of an address of a git repository.

    Attributes:
        ref: As git-fetch takes it; empty is what the repository is at.
        where: The directory that is meant; empty is all.
        commit: What it must be at, or how that begins; empty takes any.
        keep_git_dir: Keep ``.git``; None says nothing of it.
        submodules: Fetch submodules, too.
    """

    url: str
    ref: str
    where: str
    commit: str
    keep_git_dir: bool | None = None
    submodules: bool = True


def parse_git(address: str, checksum: str = "") -> Repository:
    """Read ``URL[?key=value…][#ref[:directory]]``, as BuildKit does.

    Raises:
        BuildError: It is not understood.
    """
    whole, _, fragment = address.partition("#")
    url, _, query = whole.partition("?")
    ref, _, where = fragment.partition(":")
    settings = {"ref": ref, "subdir": where, "checksum": checksum}
    settings = {key: value for key, value in settings.items() if value}
    for key, value in parse_qsl(query, keep_blank_values=True):
        if key not in _GIT_KEYS:
            raise BuildError(
                f"{address}: git repositories have no {key!r}; there are {', '.join(_GIT_KEYS)}"
            )
        if key in _GIT_SWITCHES:
            value = value.lower() or "true"
            if value not in (*_TRUE, *_FALSE):
                raise BuildError(f"{address}: {key}={value}: expected true or false")
            value = "true" if value in _TRUE else "false"
        if not value:
            raise BuildError(f"{address}: {key!r} is empty; give it a value, or leave it out")
        name = _GIT_NAMES.get(key, key)
        folder = _GIT_FOLDERS.get(key, "")
        value = folder + value.removeprefix(folder)
        if settings.setdefault(name, value) != value:
            raise BuildError(f"{address}: {settings[name]} and {value} contradict; leave out one")
    commit = settings.get("checksum", "")
    if commit and not _COMMIT.match(commit):
        raise BuildError(
            f"{address}: the checksum {commit} is not a commit; expected its 40 hex digits, or "
            "the first of them, 7 at least"
        )
    commit = commit.removeprefix("sha1:")
    ref = settings.get("ref", "") or (commit if len(commit) >= _HASH_DIGITS else "")
    keeps = settings["keep-git-dir"] == "true" if "keep-git-dir" in settings else None
    submodules = settings.get("submodules", "true") == "true"
    return Repository(url, ref, settings.get("subdir", ""), commit, keeps, submodules)


class Download(NamedTuple):
    """A file that was fetched.

    Attributes:
        digest: ``sha256:…`` of its contents.
        name: The last part of its address.
        mtime: When it was changed last, in seconds since the epoch; 0 if the server did not say.
    """

    path: Path
    digest: str
    size_bytes: int
    name: str
    mtime: int

    def open(self) -> int:
        """Open the file."""
        return os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def send(self, pipe: int) -> None:
        """Write its contents to a pipe."""
        fd = self.open()
        try:
            while os.splice(fd, pipe, _CHUNK_BYTES):
                pass
        finally:
            os.close(fd)


class Downloads:
    """Files and repositories that ADD fetches; repositories are kept until `close`.

    Args:
        store: Keeps files between builds, so that an unchanged one is not sent again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._stack = ExitStack()

    def close(self) -> None:
        """Remove what is not kept."""
        self._stack.close()

    # -------------------------------------------------------------------- http

    def fetch(self, address: str, checksum: str) -> Download:
        """Fetch a file, unless it is what it was.

        Args:
            checksum: What its digest must be; empty takes anything.

        Raises:
            BuildError: It is not there, or not what it must be.
        """
        if checksum and not _DIGEST.match(checksum):
            raise BuildError(f"--checksum={checksum}: expected sha256: and 64 hex digits")
        name = unquote(urlsplit(address).path.rpartition("/")[2])
        key = hashlib.sha256(address.encode()).hexdigest()
        folder = self._store.home / "downloads"
        record_path = folder / f"{key}.json"
        stored = records.read(record_path, "digest")
        record = None if stored is None else stored.fields
        data = folder / f"{key}.data"
        if record is not None and not data.is_file():
            record = None
        if record is not None and checksum and record["digest"] == checksum:
            return _known(data, record, name)
        with self._store.lock(f"download-{key[:32]}"):
            record = self._fetch(address, record, data, record_path)
        if checksum and record["digest"] != checksum:
            raise BuildError(
                f"{address} has the digest {record['digest']} and not {checksum}; it is not used"
            )
        return _known(data, record, name)

    def _fetch(
        self, address: str, record: dict[str, Any] | None, data: Path, record_path: Path
    ) -> dict[str, Any]:
        import urllib3

        from pytest_containers.images.registry.transport import cause_of

        headers = {"User-Agent": "pytest-containers", "Accept-Encoding": "identity"}
        if record is not None and record.get("etag"):
            headers["If-None-Match"] = record["etag"]
        elif record is not None and record.get("modified"):
            headers["If-Modified-Since"] = record["modified"]
        try:
            with _pool(address) as pool:
                response = pool.request(
                    "GET",
                    address,
                    headers=headers,
                    preload_content=False,
                    timeout=urllib3.Timeout(connect=_TIMEOUT_S, read=_TIMEOUT_S),
                    retries=3,
                )
                try:
                    if response.status == 304 and record is not None:
                        return record
                    if response.status != 200:
                        raise BuildError(f"{address}: the server answered {response.status}")
                    digest = self._keep(response, data)
                finally:
                    response.release_conn()
        except urllib3.exceptions.HTTPError as error:
            raise BuildError(f"{address} cannot be fetched: {cause_of(error)}") from None
        fetched = {
            "digest": digest,
            "etag": response.headers.get("ETag", ""),
            "modified": response.headers.get("Last-Modified", ""),
        }
        self._store.write_record(record_path, fetched, "what ADD fetches")
        return fetched

    def _keep(self, response: Any, data: Path) -> str:
        digest = hashlib.sha256()
        with storing("what ADD fetches", self._store.home), self._store.temp_dir() as temp:
            draft = temp.path / "draft"
            with draft.open("wb") as file:
                for piece in response.stream(_CHUNK_BYTES):
                    digest.update(piece)
                    file.write(piece)
            data.parent.mkdir(mode=0o700, exist_ok=True)
            draft.replace(data)
        return f"sha256:{digest.hexdigest()}"

    # --------------------------------------------------------------------- git

    def git(self, address: str, *, keep_git_dir: bool | None, checksum: str) -> tuple[Context, str]:
        """Fetch a repository, with its submodules.

        Args:
            address: See `parse_git`.
            keep_git_dir: Of ``--keep-git-dir``; None leaves it to the address.
            checksum: Of the commit; empty takes any.

        Returns:
            Its files, and the directory that is meant.

        Raises:
            BuildError: There is no git, or no such repository or ref.
        """
        repository = parse_git(address, checksum)
        keeps = repository.keep_git_dir
        if keep_git_dir is not None and keeps not in (None, keep_git_dir):
            raise BuildError(f"{address}: --keep-git-dir says something else; leave out one")
        git = shutil.which("git")
        if git is None:
            raise BuildError(f"ADD {address} needs git, which is not installed; install it")
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="pc-git-")))
        run = partial(_run_git, git, folder, address)
        run("init", "--quiet")
        # By name: addresses of submodules may be relative to that of origin.
        run("remote", "add", "origin", "--", repository.url)
        run("fetch", "--quiet", "--depth", "1", "--", "origin", repository.ref or "HEAD")
        commit = run("rev-parse", "FETCH_HEAD^{commit}")
        if not commit.startswith(repository.commit):
            raise BuildError(
                f"{address} is at commit {commit} and not {repository.commit}; it is not used"
            )
        run("checkout", "--quiet", commit)
        if repository.submodules and (folder / ".gitmodules").is_file():
            run("submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1")
        if not (keeps or keep_git_dir):
            _remove_git_dirs(folder)
        context = Context(folder, Patterns(()), FileDigests(None, folder), name=address)
        return context, repository.where


def _run_git(git: str, folder: Path, address: str, *args: str) -> str:
    try:
        done = subprocess.run(
            [git, "-C", str(folder), *args],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_GIT_TIMEOUT_S,
            # Git knows of modes only whether a file is executable: the rest is the umask's.
            umask=_UMASK,
            env={**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_DIR": f"{folder}/.git"},
        )
    except subprocess.TimeoutExpired:
        raise BuildError(f"{address}: git did not end in {_GIT_TIMEOUT_S:.0f} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise BuildError(f"{address}: git {args[0]} failed: {lines[-1]}")
    return done.stdout.strip()


def _remove_git_dirs(folder: Path) -> None:
    """Remove ``.git`` of a repository, and the files in submodules that point into it."""
    for parent, folders, files in os.walk(folder):
        if ".git" in folders:
            folders.remove(".git")
            shutil.rmtree(Path(parent, ".git"))
        if ".git" in files:
            Path(parent, ".git").unlink()


def _known(data: Path, record: dict[str, Any], name: str) -> Download:
    mtime = 0
    if record.get("modified"):
        from email.utils import parsedate_to_datetime

        try:
            mtime = int(parsedate_to_datetime(record["modified"]).timestamp())
        except (TypeError, ValueError):
            mtime = 0
    return Download(data, str(record["digest"]), data.stat().st_size, name, mtime)


def _pool(address: str) -> Any:
    """Return a pool of connections, through the proxy of the environment if there is one."""
    from urllib.request import getproxies, proxy_bypass

    import urllib3

    parts = urlsplit(address)
    proxy = getproxies().get(parts.scheme, "")
    if proxy and not proxy_bypass(parts.hostname or ""):
        return urllib3.ProxyManager(proxy)
    return urllib3.PoolManager()
