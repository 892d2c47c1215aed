"""Opens the storage of a study: a journal, SQLite, a database server, a gRPC proxy, or memory.

A password that stands in a URL is in no message.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.errors import ConfigError, MissingPackageError
from kdhooks.search.quiet import quiet

PATH = "auto_distillation.search.storage"
FORMS = "journal:FILE, sqlite:///FILE, postgresql://..., mysql://..., grpc://HOST:PORT or memory"

_DRIVERS = {  # scheme: driver, package, extra, for messages
    "postgresql": ("psycopg", "psycopg", "postgresql", "PostgreSQL"),
    "mysql": ("pymysql", "pymysql", "mysql", "MySQL"),
}
_BUSY = 60.0  # seconds that a statement waits for SQLite's lock
_PROXY_TIMEOUT = 10.0  # seconds until a proxy must answer
_TRIES = 5  # workers that start together may make the same tables


@dataclass(frozen=True)
class Opened:
    """An open storage.

    Attributes:
        storage: an `optuna.storages.BaseStorage`.
        url: for messages, without a password.
        close: gives connections back.
    """

    storage: Any
    url: str
    close: Callable[[], None]


def opened(conf: DistillationConf, url: str | None) -> Opened:
    """Open a storage, and make it where it is a file that is missing.

    Args:
        conf: whose folder holds the journal that is the default, and whose line a message shows.
        url: as in `SearchSettings.storage`.

    Raises:
        ConfigError: it can't be opened, or holds something else.
        MissingPackageError: a package for it is not installed.
    """
    if importlib.util.find_spec("optuna") is None:
        raise MissingPackageError("optuna", "a search", "search")
    url = f"journal:{conf.workspace / 'search.log'}" if url is None else url
    scheme, _, rest = url.partition(":")
    with quiet():
        if url == "memory":
            from optuna.storages import InMemoryStorage

            return Opened(InMemoryStorage(), url, _nothing)
        if scheme == "journal" and rest:
            return _journal(conf, rest.removeprefix("//"))
        if scheme == "grpc" and rest.startswith("//"):
            return _proxy(conf, rest.removeprefix("//"))
        if rest.startswith("//"):
            return _database(conf, scheme, url)
    raise conf.problem(PATH, f"{url!r} is no storage", _suggestion(url))


def _journal(conf: DistillationConf, path: str) -> Opened:
    from optuna.storages import JournalStorage

    from kdhooks.search.studies.journal import Journal, NoJournal

    shown = f"journal:{path}"
    try:
        return Opened(JournalStorage(Journal(Path(path).expanduser())), shown, _nothing)
    except OSError as error:
        raise _unopened(conf, shown, error.strerror or str(error)) from None
    except (NoJournal, ValueError, KeyError, TypeError, AssertionError):
        cause = "the file is no journal of Optuna, or it is damaged"
        raise _unopened(conf, shown, cause, "Name another file") from None


def _proxy(conf: DistillationConf, address: str) -> Opened:
    from optuna.storages import GrpcStorageProxy

    if importlib.util.find_spec("grpc") is None:
        raise MissingPackageError("grpcio", "a study behind a gRPC proxy", "grpc")
    host, _, port = address.rstrip("/").rpartition(":")
    if not host or not port.isdigit():
        raise conf.problem(PATH, f"'grpc://{address}' is no address", "Write grpc://HOST:PORT")
    proxy = GrpcStorageProxy(host=host, port=int(port))
    try:
        proxy.wait_server_ready(timeout=_PROXY_TIMEOUT)
    except ConnectionError:
        proxy.close()
        advice = "Start it: optuna.storages.run_grpc_proxy_server(storage, host=..., port=...)"
        raise _unopened(conf, f"grpc://{address}", "no gRPC proxy answers there", advice) from None
    return Opened(proxy, f"grpc://{address}", proxy.close)


def _database(conf: DistillationConf, scheme: str, url: str) -> Opened:
    from optuna.exceptions import StorageInternalError
    from optuna.storages import RDBStorage, get_storage
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

    try:
        parsed = make_url(url)
        shown = parsed.render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        raise conf.problem(PATH, "the URL can't be read", f"Write {FORMS}") from None
    parsed = parsed.set(drivername=_driver(scheme))
    options: dict[str, Any] = {"pool_pre_ping": True}
    if parsed.get_backend_name() == "sqlite":
        options = {"connect_args": {"timeout": _BUSY}}
        with suppress(OSError):  # opening says what is wrong
            Path(parsed.database or ".").parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(1, _TRIES + 1):
        try:
            database = RDBStorage(parsed.render_as_string(hide_password=False), engine_kwargs=options)
            break
        except (ImportError, NoSuchModuleError):
            raise conf.problem(PATH, f"there is no driver for {scheme!r}", f"Write {FORMS}") from None
        except (SQLAlchemyError, StorageInternalError) as error:
            if attempt == _TRIES or not _may_pass(error):
                raise _unopened(conf, shown, _cause(error, parsed.password)) from None
            time.sleep(0.1 * attempt)
        except (RuntimeError, AssertionError):
            advice = "Update Optuna, or name another database"
            raise _unopened(conf, shown, "another version of Optuna made its tables", advice) from None

    def close() -> None:
        database.remove_session()
        database.engine.dispose()

    return Opened(get_storage(database), shown, close)


def _driver(scheme: str) -> str:
    """The scheme with its driver: ``postgresql`` is ``postgresql+psycopg``."""
    name = "postgresql" if scheme == "postgres" else scheme
    if name not in _DRIVERS:
        return name
    driver, package, extra, system = _DRIVERS[name]
    if importlib.util.find_spec(package) is None:
        raise MissingPackageError(package, f"a study in {system}", extra)
    return f"{name}+{driver}"


def _may_pass(error: Exception) -> bool:
    """Whether another try can succeed: several workers made the tables at once, or SQLite was busy."""
    text = str(error)
    return any(sign in text for sign in ("already exists", "pg_type_typname", "UNIQUE", "duplicate", "locked"))


def _cause(error: Exception, password: str | None) -> str:
    """The first line of what the driver said, without the password."""
    inner = getattr(error, "orig", None) or error.__cause__ or error
    inner = getattr(inner, "orig", None) or inner
    line = next(iter(str(inner).strip().splitlines()), type(inner).__name__).strip()
    return line.replace(str(password), "***") if password else line


def _unopened(conf: DistillationConf, url: str, cause: str, advice: str = "") -> ConfigError:
    return conf.problem(PATH, f"the storage {url} can't be opened: {cause}", advice)


def _suggestion(url: str) -> str:
    if "/" in url or "." in url:
        journal = "sqlite:///" if url.endswith((".db", ".sqlite", ".sqlite3")) else "journal:"
        if ":" not in url:
            return f"Write {journal}{url}"
    return f"Write {FORMS}"


def _nothing() -> None:
    """Nothing has to be closed."""
