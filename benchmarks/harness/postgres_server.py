"""A PostgreSQL server of our own, in a directory that is removed in the end.

It listens on a socket in that directory and on no port. PostgreSQL refuses to run as
root, so root runs it as `nobody`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp
from types import TracebackType
from typing import Any

__all__ = ["PostgresServer", "missing_for_postgres"]

# Stops the server when its input ends: when it is told to, or this process is gone.
GUARD = '"$@" & read -r _; kill -INT $!; wait $!'

# Seconds in which it starts or stops. A guess: a busy machine needs a few.
PATIENCE = 50.0


def missing_for_postgres() -> str:
    """Why no server can be started here; empty if one can."""
    if sys.platform == "win32":
        return "needs a POSIX system"
    if not (_program("initdb") and _program("postgres")):
        return "needs initdb and postgres, the programs of a PostgreSQL server"

    return ""


class PostgresServer:
    """Started on entering, and stopped on leaving.

    `conninfo` leads to its only database, as its only user. The socket is in
    `directory`."""

    def __init__(self) -> None:
        # The path of a socket has 107 characters at most, and `nobody` cannot enter a
        # folder of root's own.
        self.directory = mkdtemp(dir="/tmp" if os.getuid() == 0 else None)
        self._account = _account()
        self.conninfo = f"host={self.directory} user=app dbname=postgres"

    def __enter__(self) -> PostgresServer:
        try:
            if self._account:
                os.chown(self.directory, self._account["user"], self._account["group"])
            self._run(_program("initdb"), "-U", "app", "-A", "trust", "-E", "UTF8", "--no-sync")
            self.start()
        except BaseException:
            shutil.rmtree(self.directory)
            raise

        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        try:
            if self._process.poll() is None:
                self.stop()
        finally:
            shutil.rmtree(self.directory)

    def start(self) -> None:
        """Start the server, and return when it takes connections."""
        options = ["-k", self.directory, "-h", "", "-F"]
        with Path(self.directory, "log").open("a") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "sh", _program("postgres"), "-D", self._data, *options],
                cwd=self.directory,
                stdin=subprocess.PIPE,
                stderr=log,
                **self._account,
            )

        deadline = time.monotonic() + PATIENCE
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(Path(self.directory, "log").read_text())
            time.sleep(0.002)

    def stop(self) -> None:
        """End all connections and the server, as `pg_ctl stop` does."""
        self._process.communicate(timeout=PATIENCE)

    def restart(self) -> None:
        """Stop and start it."""
        self.stop()
        self.start()

    def end_connections(self) -> None:
        """End all connections, and return when they are ended."""
        import psycopg

        others = "from pg_stat_activity where backend_type = 'client backend'"
        others += " and pid <> pg_backend_pid()"
        with psycopg.connect(self.conninfo, autocommit=True) as conn:
            told = conn.execute(f"select pid, pg_terminate_backend(pid) {others}").fetchall()
            pids = [pid for pid, _ in told]
            while conn.execute(f"select {others} and pid = any(%s)", (pids,)).fetchone():
                time.sleep(0.002)

    @property
    def _data(self) -> str:
        return f"{self.directory}/data"

    def _is_ready(self) -> bool:
        # Its last line is its state.
        state = Path(self._data, "postmaster.pid")
        try:
            return state.read_text().split()[-1] == "ready"
        except (FileNotFoundError, IndexError):
            return False

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [program, "-D", self._data, *arguments],
            check=True,
            cwd=self.directory,
            stdout=subprocess.DEVNULL,
            **self._account,
        )


def _program(name: str) -> str:
    found = [
        shutil.which(name),
        *map(str, sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)),
    ]
    return next(filter(None, found), "")


def _account() -> dict[str, Any]:
    """The options of `subprocess` for another user than root."""
    if os.getuid() != 0:
        return {}

    import pwd

    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
