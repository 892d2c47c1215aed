"""Workers at one study in PostgreSQL, on a server of Debian's package that this test starts for itself."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdhooks.config import DistillationConf
from kdhooks.search.studies.study import Study
from tests.core.search.searches import plain, searched, settings, space, work
from tests.core.search.test_processes import check_four, check_kills, check_two_of_four_killed

PROGRAMS = Path("/usr/lib/postgresql")
PASSWORD = "s/e@cret"
QUOTED = "s%2Fe%40cret"


class Server:
    """A server in a folder of its own, run by the user postgres where the test is root, who may not run one."""

    def __init__(self, folder: Path) -> None:
        versions = sorted(PROGRAMS.glob("*/bin/pg_ctl"))
        assert versions, "PostgreSQL is missing: make test-system installs it"
        self.programs, self.folder = versions[-1].parent, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.data = folder / "data"
        self.data.mkdir()
        (folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:
            user = pwd.getpwnam("postgres")
            for path in (folder, self.data, folder / "password"):
                os.chown(path, user.pw_uid, user.pw_gid)
        self.run(
            "initdb", "-D", self.data, "-U", "kd", "-A", "scram-sha-256", "--no-sync", f"--pwfile={folder}/password"
        )

    def run(self, program: str, *arguments: object) -> None:
        as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        words = [*as_user, str(self.programs / program), *map(str, arguments)]
        done = subprocess.run(words, capture_output=True, text=True, cwd="/", timeout=100, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr + done.stdout

    def begin(self) -> None:
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self.run("pg_ctl", "-D", self.data, "-w", "-l", self.folder / "log", "-o", options, "start")

    def end(self) -> None:
        self.run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://kd:{QUOTED}@127.0.0.1:{self.port}/{database}"

    def new_database(self, name: str) -> str:
        import psycopg

        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"create database {name}".encode())
        return self.url(name)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    folder = Path("/tmp") / f"kdhooks-postgresql-{os.getpid()}"  # a socket's path must be short, and open to postgres
    folder.mkdir()
    try:
        server = Server(folder)
        server.begin()
        yield server
        server.end()
    finally:
        shutil.rmtree(folder)


def test_four_workers(server: Server) -> None:
    check_four(server.new_database("four"), server.new_database("alone"))


@pytest.mark.soak
def test_the_overhead_on_the_clock(server: Server) -> None:
    check_four(server.new_database("clock_four"), server.new_database("clock_alone"), "overheads")


def test_kills_change_nothing(server: Server) -> None:
    check_kills(server.new_database("kills"), "TPE", 16, seed=5, kills=5)


def test_two_of_four_are_killed(server: Server) -> None:
    check_two_of_four_killed(server.new_database("two"), (0.2, 0.2))


def test_a_server_that_starts_again_costs_no_candidate(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    given = settings("Random", storage=server.new_database("restart"), max_trials=4)
    with Study(DistillationConf(), space=space(), settings=given) as study:
        assert study.url == f"postgresql://kd:***@127.0.0.1:{server.port}/restart"
        work(study, most=2)
        server.end()
        server.begin()
        work(study)
        assert plain(study.candidates()) == plain(searched("Random", 4))
    assert PASSWORD not in caplog.text and QUOTED not in caplog.text
