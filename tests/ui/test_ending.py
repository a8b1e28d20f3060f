"""The server ends when it is told to, whatever its requests wait for: real processes that hang in a real pipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from workbench import paths

# A stand-in for any reader that never comes back: the download opens a pipe that nobody writes to.
_SERVER = """
import sys, socket
from workbench import Workbench
from workbench_ui import app, files
from workbench_ui.shield import Shield
def hang(*args, **kwargs): open(sys.argv[1]).read()
bench = Workbench()
if sys.argv[2] == "thread": bench.adapters.export = hang
else: Shield._reply = lambda self, request: hang() if "/files/" in request.url.path else None
app.serve(bench, port=int(sys.argv[3]), announce=lambda link: print(link, flush=True))
"""


@pytest.mark.parametrize(("where", "sig"), [("loop", signal.SIGTERM), ("thread", signal.SIGINT)])
def test_the_server_ends_within_seconds_while_a_request_hangs(tmp_path: Path, where: str, sig: signal.Signals) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = [sys.executable, "-c", _SERVER, str(pipe), where, "9310"]
    environment = paths.child_environment(WORKBENCH_HOME=str(tmp_path / "home"))
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            link = server.stdout.readline().strip()
            found = re.fullmatch(r"(http://127\.0\.0\.1:\d+/)\?token=([\w-]{43})", link)
            assert found, "the printed link lets a browser in"
            opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
            if where == "thread":
                opener.open(link, timeout=60).read()
            with pytest.raises(TimeoutError):
                opener.open(f"{found[1]}files/adapters/orders/1.zip", timeout=3).read()
            server.send_signal(sig)
            began = time.monotonic()
            server.wait(timeout=15)
            assert time.monotonic() - began < 8
        finally:
            server.kill()
