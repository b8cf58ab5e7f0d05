"""A real PostgreSQL for tests, from Debian's package: a folder of its own, a free port of 127.0.0.1, no other user."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from lasting_port import lasting_port

PASSWORD = "p/w@:%x"  # what a URL has to escape


class Server:
    """One that a test may stop and start again; everybody on this machine may connect as `ups` with the password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.binaries = _binaries()
        self.port = lasting_port()
        folder.mkdir(parents=True, exist_ok=True)
        secret = folder / "secret"
        secret.write_text(PASSWORD)
        if os.getuid() == 0:  # initdb refuses to run as root
            for path in (folder, secret):
                shutil.chown(path, "postgres", "postgres")
        self._run(
            "initdb", "-D", "data", "-U", "ups", "-A", "scram-sha-256", "--pwfile=secret", "--no-sync", "-E", "UTF8"
        )
        self.start()

    @property
    def url(self) -> str:
        """Without the password, which `PGPASSWORD` has."""
        return f"postgresql://ups@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        settings = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-w", "-l", "log", "-o", settings, "start")

    def stop(self) -> None:
        """Cut every connection, as a restart of the machine does."""
        self._run("pg_ctl", "-D", "data", "-w", "-m", "immediate", "stop")

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        import psycopg

        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        # into a file: a server that is started keeps what it was given for its output
        with open(self.folder / "output", "w+") as output:
            done = subprocess.run(command, cwd=self.folder, stdout=output, stderr=output, check=False)
            output.seek(0)
            assert done.returncode == 0, output.read()


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    return Path(on_path).parent
