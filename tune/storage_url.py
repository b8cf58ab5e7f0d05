"""Where a study is kept, as the user writes it: the path of a journal, or the URL of a PostgreSQL database.

A password never stays in the value: it is kept for this process alone, so that whatever is written or shown of a
study (study.yaml, errors, the plan in the database) cannot hold one.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote, urlencode

UNREADABLE = "postgresql://..."
"""stands for a URL that cannot be read: no part of it may be shown, as any part may be the password"""
_SECRETS = ("password", "sslpassword")
# a server that falls silent is noticed: without these a query waits for as long as the kernel lets it
_DEFAULTS = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_kept: dict[str, dict[str, str]] = {}


def is_database(place: str | None) -> bool:
    return place is not None and place.startswith("postgresql://")


def wash(place: str) -> str:
    """A path as it is; a URL in one spelling, without its password, which this process keeps for `connection_of`."""
    if "://" not in place or place == UNREADABLE:
        return place
    settings = _read(place)
    if settings is None:
        return (
            UNREADABLE if place.startswith(("postgresql://", "postgres://")) else f"{place.partition('://')[0]}://..."
        )
    secrets = {name: settings.pop(name) for name in _SECRETS if name in settings}
    washed = _spell(settings)
    if secrets:
        _kept[washed] = secrets
    return washed


def check(place: str) -> str:
    """A washed place that can be opened.

    Raises:
        ValueError: neither a path nor a URL of PostgreSQL that can be read.
    """
    if place == UNREADABLE:
        raise ValueError(
            "is no readable URL; write postgresql://user@host:5432/database, with %2F for / and %40 for @ in a password"
        )
    if "://" in place and not is_database(place):
        raise ValueError("must be the path of a journal or a postgresql:// URL")
    if not place.strip():
        raise ValueError("must be the path of a journal or a postgresql:// URL; leave it out for STUDY/journal.log")
    return place


def connection_of(url: str) -> dict[str, str]:
    """What libpq is given for a washed URL. Where the URL had no password, libpq looks for one itself: in PGPASSWORD,
    then in the file .pgpass."""
    settings = _read(url)
    assert settings is not None, "`check` has refused it"
    return {**_DEFAULTS, **settings, **_kept.get(url, {})}


def _read(url: str) -> dict[str, str] | None:
    """libpq's own reading of a URL; None where it has none, or where a password was not escaped and has gone astray."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    if not url.startswith(("postgresql://", "postgres://")):
        return None
    try:
        found: dict[str, Any] = conninfo_to_dict(url)
    except ProgrammingError:
        return None
    settings = {name: str(value) for name, value in found.items()}
    ports = settings.get("port", "").split(",")
    astray = any("@" in settings.get(name, "") for name in ("host", "dbname"))
    return None if astray or not all(port.isdigit() or not port for port in ports) else settings


def _spell(settings: dict[str, str]) -> str:
    """The URL of these settings; whatever does not fit before the path goes behind the question mark."""
    rest = dict(settings)
    user = quote(rest.pop("user", ""), safe="")
    database = quote(rest.pop("dbname", ""), safe="")
    host = rest.get("host", "")
    if host and not set(host) & set("/,:[]"):
        del rest["host"]
        port = rest.pop("port", "")
        host += f":{port}" if port else ""
    else:
        host = ""
    query = urlencode(sorted(rest.items()))
    return f"postgresql://{user + '@' if user else ''}{host}/{database}{'?' + query if query else ''}"
