"""Extensions of PostgreSQL: made in the database, or refused with the package that has them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pytest_containers.model.errors import SpecError, UnsupportedError, hide_frames
from pytest_containers.services.sql import SqlService

__tracebackhide__ = hide_frames

PRELOADED = frozenset(("pg_cron", "pg_stat_statements", "pgaudit", "timescaledb"))
"""Extensions whose library the server must load at its start."""
_CONTRIB = frozenset(
    (
        "adminpack", "amcheck", "autoinc", "bloom", "btree_gin", "btree_gist", "citext", "cube",
        "dblink", "dict_int", "dict_xsyn", "earthdistance", "file_fdw", "fuzzystrmatch", "hstore",
        "insert_username", "intagg", "intarray", "isn", "lo", "ltree", "moddatetime", "pageinspect",
        "pg_buffercache", "pg_freespacemap", "pg_prewarm", "pg_stat_statements", "pg_surgery",
        "pg_trgm", "pg_visibility", "pg_walinspect", "pgcrypto", "pgrowlocks", "pgstattuple",
        "postgres_fdw", "refint", "seg", "sslinfo", "tablefunc", "tcn", "tsm_system_rows",
        "tsm_system_time", "unaccent", "uuid-ossp", "xml2",
    )
)  # fmt: skip
# Debian's packages are postgresql-VERSION-NAME, with "-" for "_"; these are named otherwise.
_PACKAGES = {
    "address_standardizer": "postgresql-{}-postgis-3",
    "pg_cron": "postgresql-{}-cron",
    "pg_partman": "postgresql-{}-partman",
    "pg_repack": "postgresql-{}-repack",
    "pg_similarity": "postgresql-{}-similarity",
    "plperl": "postgresql-plperl-{}",
    "plperlu": "postgresql-plperl-{}",
    "plpython3u": "postgresql-plpython3-{}",
    "pltcl": "postgresql-pltcl-{}",
    "pltclu": "postgresql-pltcl-{}",
    "postgis": "postgresql-{}-postgis-3",
    "postgis_raster": "postgresql-{}-postgis-3",
    "postgis_tiger_geocoder": "postgresql-{}-postgis-3",
    "postgis_topology": "postgresql-{}-postgis-3",
    "vector": "postgresql-{}-pgvector",
}


def create_extensions(server: SqlService, extensions: Sequence[str]) -> None:
    """Create extensions in the database of a server, with those that they need.

    Raises:
        SpecError: A name is not that of an extension.
        UnsupportedError: The server does not have an extension; with the package that has it.
    """
    if not extensions:
        return
    for name in extensions:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", name):
            raise SpecError(f"Postgres: {name!r} cannot name an extension", option="extensions")
    available = {row[0] for row in server.sql("select name from pg_available_extensions")}
    missing = [name for name in extensions if name not in available]
    if missing:
        version = server.sql("show server_version_num")[0][0][:-4]
        raise _missing(server, missing, version)
    server.sql("".join(f'CREATE EXTENSION IF NOT EXISTS "{name}" CASCADE;' for name in extensions))


def _missing(server: SqlService, names: Sequence[str], version: str) -> UnsupportedError:
    packages = sorted({package_of(name, version) for name in names})
    several = "extensions" if len(names) > 1 else "extension"
    quoted = ", ".join(map(repr, names))
    if server.container.image.mounts:
        cause, way = "this machine", f"apt install {' '.join(packages)}"
    else:
        cause = f"image {server.container.image.name}"
        way = f"name an image that has it, or install {' '.join(packages)} in this one"
    return UnsupportedError(
        f"{several} {quoted} of PostgreSQL {version}: {cause} lacks it; {way}",
        missing=packages,
    )


def package_of(name: str, version: str) -> str:
    """Return the name of the Debian package with an extension.

    Args:
        version: The major version of the server: ``"15"``.
    """
    if name in _CONTRIB:
        return f"postgresql-{version}"
    pattern = _PACKAGES.get(name, f"postgresql-{{}}-{name.replace('_', '-')}")
    return pattern.format(version)
