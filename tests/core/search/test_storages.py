"""Storages: what can be opened, what can't, and journals of workers that were killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage, JournalStorage

from kdhooks.config import DistillationConf
from kdhooks.errors import ConfigError, MissingPackageError
from kdhooks.search.studies.journal import Journal
from kdhooks.search.studies.storages import opened
from kdhooks.search.studies.study import Study
from tests.core.search.searches import ROOT, plain, settings, space, work

FORMS = "journal:FILE, sqlite:///FILE, postgresql://..., mysql://..., grpc://HOST:PORT or memory"


def refused(url: str) -> str:
    with pytest.raises(ConfigError) as caught:
        opened(DistillationConf(), url)
    return str(caught.value).removeprefix("<dict>: auto_distillation.search.storage: ")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("study.db", "'study.db' is no storage\n  Write sqlite:///study.db"),
        ("runs/study.log", "'runs/study.log' is no storage\n  Write journal:runs/study.log"),
        ("disk", f"'disk' is no storage\n  Write {FORMS}"),
        ("mongo://host/db", f"there is no driver for 'mongo'\n  Write {FORMS}"),
        ("grpc://host", "'grpc://host' is no address\n  Write grpc://HOST:PORT"),
        ("journal:/proc/study.log", "the storage journal:/proc/study.log can't be opened: No such file or directory"),
        (
            "sqlite:////proc/study.db",
            "the storage sqlite:////proc/study.db can't be opened: unable to open database file",
        ),
    ],
)
def test_what_can_not_be_opened(url: str, message: str) -> None:
    assert refused(url) == message


@pytest.mark.parametrize("text", ["text without an end", "text\n", '{"json": 1}\n', "\x00\x01\xff" * 9])
def test_a_journal_that_is_something_else_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(text.encode("latin-1"))
    assert refused(f"journal:{path}") == (
        f"the storage journal:{path} can't be opened: the file is no journal of Optuna, or it is damaged\n"
        "  Name another file"
    )
    assert path.read_bytes() == text.encode("latin-1")


def test_a_database_that_is_something_else(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("a text of some length, which is no database at all" * 20)
    assert refused(f"sqlite:///{path}") == (f"the storage sqlite:///{path} can't be opened: file is not a database")


def test_no_message_has_a_password() -> None:
    message = refused("postgresql://user:se%40cret@127.0.0.1:1/study")
    assert "se%40cret" not in message and "se@cret" not in message
    assert message.startswith("the storage postgresql://user:***@127.0.0.1:1/study can't be opened: connection ")
    with pytest.raises(ConfigError) as caught:
        opened(DistillationConf(), "postgresql://user:secret@host:port/study")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "package", "message"),
    [
        (
            "postgresql://host/study",
            "psycopg",
            "a study in PostgreSQL needs the package 'psycopg': pip install 'kdhooks[postgresql]'",
        ),
        ("mysql://host/study", "pymysql", "a study in MySQL needs the package 'pymysql': pip install 'kdhooks[mysql]'"),
        (
            "grpc://host:1",
            "grpc",
            "a study behind a gRPC proxy needs the package 'grpcio': pip install 'kdhooks[grpc]'",
        ),
    ],
)
def test_a_missing_driver(monkeypatch: pytest.MonkeyPatch, url: str, package: str, message: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(MissingPackageError) as caught:
        opened(DistillationConf(), url)
    assert str(caught.value) == message


def test_a_journal_with_half_a_line(tmp_path: Path) -> None:
    """What a worker leaves that is killed while it writes."""
    path = tmp_path / "study.log"
    given = settings("Random", storage=f"journal:{path}", max_trials=6)
    with Study(DistillationConf(), space=space(), settings=given) as study:
        done = work(study, most=3)
    whole = path.read_bytes()
    for cut in (1, 7, 60):
        path.write_bytes(whole + whole[-100:-cut].rpartition(b"\n")[2] + b'{"op_code":5,"wor' * 300)
        with Study(DistillationConf(), space=space(), settings=given) as study:
            assert plain(study.candidates()) == plain(done)
            if cut == 60:
                done += work(study)
    assert [one.number for one in done] == [0, 1, 2, 3, 4, 5]
    for line in path.read_text().splitlines():
        assert "op_code" in json.loads(line)


HOLDER = """
import sys, time
from pathlib import Path
from kdhooks.search.studies.journal import SystemLock
lock = SystemLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "study.log"
    journal = JournalStorage(Journal(path))
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    writer = threading.Thread(target=journal.create_new_study, args=([1], "study"))
    writer.start()
    writer.join(0.3)
    assert writer.is_alive(), "it wrote although the lock was held"
    holder.send_signal(signal.SIGKILL)
    writer.join(5)
    assert not writer.is_alive(), "it waits for a process that is dead"
    assert journal.get_study_name_from_id(0) == "study"
    holder.wait()
    holder.stdout.close()


def test_a_process_that_was_forked_while_the_lock_was_held_does_not_keep_it(tmp_path: Path) -> None:
    from kdhooks.search.studies.journal import SystemLock

    lock, other = SystemLock(tmp_path / "study.log"), SystemLock(tmp_path / "study.log")
    lock.acquire()
    child = subprocess.Popen(["sleep", "30"], pass_fds=[lock._held or 0])
    lock.release()
    waiting = threading.Thread(target=other.acquire)
    waiting.start()
    waiting.join(5)
    assert not waiting.is_alive()
    other.release()
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


def test_where_the_system_has_no_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.search.studies.journal.fcntl", None)
    given = settings("Random", storage=f"journal:{tmp_path}/study.log", max_trials=2)
    with Study(DistillationConf(), space=space(), settings=given) as study:
        assert len(work(study)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.log"]


SERVER = """
import logging, sys
from optuna.storages import InMemoryStorage, run_grpc_proxy_server
run_grpc_proxy_server(InMemoryStorage(), host="127.0.0.1", port=int(sys.argv[1]))
"""


def test_a_grpc_proxy() -> None:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", SERVER, str(port)], stderr=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        given = settings("Random", storage=f"grpc://127.0.0.1:{port}", max_trials=5)
        with Study(DistillationConf(), space=space(), settings=given) as study:
            done = work(study, most=3)
        with Study(DistillationConf(), space=space(), settings=given) as study:
            assert plain(study.candidates()) == plain(done)
            assert [one.number for one in work(study)] == [3, 4]
    finally:
        server.terminate()
        server.wait()


def test_a_grpc_proxy_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.search.studies.storages._PROXY_TIMEOUT", 0.2)
    assert refused("grpc://127.0.0.1:1") == (
        "the storage grpc://127.0.0.1:1 can't be opened: no gRPC proxy answers there\n"
        "  Start it: optuna.storages.run_grpc_proxy_server(storage, host=..., port=...)"
    )


class Away(InMemoryStorage):
    """A storage that does not answer from time to time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def set_trial_user_attr(self, trial_id: int, key: str, value: object) -> None:
        from optuna.exceptions import StorageInternalError

        self.calls += 1
        if self.calls % 2:
            raise StorageInternalError("the server starts again")
        super().set_trial_user_attr(trial_id, key, value)


def test_a_storage_that_is_away_for_a_moment(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("optuna.storages.InMemoryStorage", Away)
    with Study(DistillationConf(), space=space(), settings=settings("Random", max_trials=2)) as study:
        begin = time.monotonic()
        assert len(work(study)) == 2
        assert time.monotonic() - begin < 5
    assert "the study's storage does not answer (StorageInternalError); trying again" in caplog.messages
