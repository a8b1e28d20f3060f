"""End the dispatcher that a test started in the background."""

from __future__ import annotations

import os
import signal
import time

from workbench.jobs import dispatcher, processes


def stop_dispatcher(*, seconds: float = 10.0) -> bool:
    """Ask this home's dispatcher to leave (jobs that run go on). True when none runs any more."""
    deadline = time.monotonic() + seconds
    while dispatcher.is_running():
        pid, started, *_ = [*dispatcher._signature(), "", ""]
        if pid.isdigit() and processes.is_alive(int(pid), started):
            os.kill(int(pid), signal.SIGTERM)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
