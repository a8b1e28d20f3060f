"""Parse what strangers wrote in a child process with limits, so that no file can hang, swell or crash its reader.

    rows = Limits("orders.csv", memory=GIB, seconds=60).run(read_rows, path)

A small server process is started once and forks a fresh child for each call. The kernel holds the child to its limits
(setrlimit, setitimer), and kills it when this process dies. Arguments and function travel by pickle; what comes back may
hold plain values and the records of this package only. Errors of `workbench.errors` are raised here as they were there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import importlib
import io
import json
import os
import pickle
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ParamSpec, TypeVar

from workbench import errors, paths
from workbench.errors import DataError, WorkbenchError

__all__ = ["GIB", "MIB", "ORPHAN", "Limits", "die_with_parent", "inside", "open_regular", "read_regular", "say", "shown"]

P = ParamSpec("P")
T = TypeVar("T")
MIB, GIB = 1024**2, 1024**3
ORPHAN = 70  # exit code of a process whose parent died
_REPLY = 512 * MIB  # bytes that one call may send back
_PLAIN = {
    ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"), ("collections", "Counter"), ("collections", "OrderedDict"),
    ("datetime", "datetime"), ("datetime", "timezone"), ("datetime", "timedelta"), ("pathlib", "PosixPath"), ("pathlib", "PurePosixPath"),
}  # fmt: skip


@dataclass(frozen=True)
class Limits:
    """What a child may use while it reads `what` (a name for messages); `error` is raised when it uses more."""

    what: str
    memory: int = GIB  # bytes on top of what the child starts with
    seconds: float = 60.0  # of the clock
    cpu: float | None = None  # seconds of the processor; None: as many as of the clock
    writes: int = 0  # bytes that a file written by the child may have
    preload: Sequence[str] = ()  # modules imported once for all calls, before the child is made and limited
    error: type[WorkbenchError] = DataError
    hint: str = "If the file is what you expect, give it in smaller parts."
    on_progress: Callable[[str], None] | None = None  # hears what the child says by `say` while it works

    def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """`function(*args, **kwargs)`, computed in a child. Raises what it raises, and `error` when a limit is reached."""
        limits = dataclasses.replace(self, on_progress=None)  # which stays here
        request = pickle.dumps((function, args, kwargs, limits, dict(paths.foreign_environment()), os.getcwd()))
        with contextlib.closing(_server.call(request, self)) as replies:
            kind, value = _read_frame(replies)
            while kind == "say":
                if self.on_progress is not None:
                    self.on_progress(value)
                kind, value = _read_frame(replies)
        if kind != "value":
            raise self._error(kind, value)
        result: T = value
        return result

    def _error(self, kind: str, value: Any) -> Exception:
        if kind == "raised":
            name, message, hint, problems = value
            made = getattr(errors, name)(message, hint=hint)
            if problems is not None:
                made.problems = problems
            return made if isinstance(made, WorkbenchError) else RuntimeError(str(value))
        if kind == "bug":
            return RuntimeError(f"reading {self.what} failed\n{value}")
        if value in {signal.SIGALRM, signal.SIGXCPU}:
            seconds = self.seconds if value == signal.SIGALRM or self.cpu is None else self.cpu
            return self.error(f"{self.what} was given up: it took more than {seconds:g} seconds to read.", hint=self.hint)
        crashed = value in {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGTRAP}  # some libraries do so for want of memory
        if kind == "memory" or crashed or value == signal.SIGKILL:
            maybe = "it crashes its reader, or " * crashed
            return self.error(
                f"{self.what} was given up: {maybe}reading it takes more than {self.memory / GIB:.1f} GB of memory.", hint=self.hint
            )
        return self.error(f"{self.what} cannot be read: its reader ended without a word (status {value}).", hint=self.hint)


def inside() -> bool:
    """Whether this is such a child."""
    return _replies is not None


def say(text: str) -> None:
    """From inside a child: send one line of progress to whoever called."""
    if _replies is not None:
        _write_frame(_replies, ("say", text))


def shown(path: Path | str) -> str:
    """A path as text that can be printed and stored, whatever bytes its name is made of."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(path))


def open_regular(path: str | Path, *, most: int, error: type[WorkbenchError] = DataError) -> IO[bytes]:
    """Open a plain file of at most `most` bytes for reading; a link, device, pipe or folder is refused without waiting for it.

    Whoever may use links (a path typed by its owner) resolves the path first. Raises `error`, and `OSError` as `open` does.
    """
    path = Path(path)
    name = shown(path.name)
    flags = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    if path.is_symlink():
        raise error(f"{name} is a link.", hint="Give the file itself.")
    handle = os.open(path, flags)
    try:
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            raise error(f"{name} is no plain file.", hint="Give the file itself, not a folder, a pipe or a device.")
        if found.st_size > most:
            raise error(f"{name} has {found.st_size:,} bytes; {most:,} are the most that are read.", hint="Give it in smaller parts.")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: str | Path, *, most: int, error: type[WorkbenchError] = DataError) -> bytes:
    """The bytes of a plain file; counted as they are read, so that a growing file is refused as well. Raises as `open_regular`."""
    with open_regular(path, most=most, error=error) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(size + 1)  # not `most`: so much memory would be taken first
    if len(data) > size:
        raise error(f"{Path(path).name} grew past {size:,} bytes while it was read.")
    return data


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when `parent` dies (Linux); ends it at once when that has happened already."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(ORPHAN)


# ---------------------------------------------------------------- frames


def _write_frame(handle: int, frame: tuple[str, Any]) -> None:
    data = pickle.dumps(frame)
    data = struct.pack("<Q", len(data)) + data
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _read_frame(replies: IO[bytes]) -> tuple[str, Any]:
    head = replies.read(8)
    size = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 0 < size <= _REPLY:
        return "memory" if size else "died", 0
    data = replies.read(size)
    if len(data) < size:
        return "died", 0
    kind, value = _Plain(io.BytesIO(data)).load()
    return str(kind), value


class _Plain(pickle.Unpickler):
    """Unpickles plain values and the records of this package: a child that was taken over can send nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return getattr(importlib.import_module(module), name)
        if module.startswith("workbench.") and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and (dataclasses.is_dataclass(found) or issubclass(found, enum.Enum)):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} may not come from a child")


# ---------------------------------------------------------------- this process


class _Server:
    """The process that forks the children; started when first needed, once per process, and again if it died."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._pid = 0

    def call(self, request: bytes, limits: Limits) -> IO[bytes]:
        """Send a request; returns the stream of its replies."""
        request_out, request_in = os.pipe()
        reply_out, reply_in = os.pipe()
        try:
            with self._lock:
                self._send(json.dumps([limits.seconds, *limits.preload]).encode(), [request_out, reply_in])
        except BaseException:
            for handle in (request_out, request_in, reply_out, reply_in):
                os.close(handle)
            raise
        os.close(request_out)
        os.close(reply_in)
        with contextlib.suppress(BrokenPipeError), os.fdopen(request_in, "wb") as out:  # a child that died says so below
            out.write(request)
        return os.fdopen(reply_out, "rb")

    def _send(self, message: bytes, handles: list[int]) -> None:
        if self._socket is not None and self._pid == os.getpid():
            with contextlib.suppress(OSError):
                socket.send_fds(self._socket, [message], handles)
                return
        self._start()
        assert self._socket is not None
        socket.send_fds(self._socket, [message], handles)

    def _start(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = f"import sys; sys.path[:] = {sys.path!r}; from workbench import foreign; foreign.serve({theirs.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", code],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for this process, which then ends that one
            env=paths.foreign_environment(),
        )
        theirs.close()
        threading.Thread(target=process.wait, daemon=True).start()  # no zombie
        self._socket, self._pid = ours, os.getpid()


_server = _Server()


# ---------------------------------------------------------------- the server and its children

_replies: int | None = None  # in a child: where its replies go


def serve(handle: int) -> None:
    """Fork a child for every request that comes over the socket `handle`, until its other end is gone."""
    requests = socket.socket(fileno=handle)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: dict[int, int] = {}  # pid -> where to say how it died
    ends: dict[int, float] = {}  # pid -> when it is killed: a process that was stopped gets no alarm
    late: set[int] = set()
    while True:
        ready, _, _ = select.select([handle, woken], [], [], max(0.0, min(ends.values()) - time.monotonic()) if ends else None)
        for pid in [pid for pid, end in ends.items() if end <= time.monotonic()]:
            del ends[pid]
            late.add(pid)
            os.kill(pid, signal.SIGKILL)  # not reaped yet, so it is still that process
        if woken in ready:
            os.read(woken, 512)
            _reap(children, ends, late)
        if handle in ready:
            message, handles, _, _ = socket.recv_fds(requests, 65_536, 2)
            if not message:
                for pid in children:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                os._exit(0)
            request, reply = handles
            seconds, *preload = json.loads(message)
            for name in preload:
                with contextlib.suppress(ImportError):
                    importlib.import_module(name)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                _child(request, reply)
            os.close(request)
            children[pid], ends[pid] = reply, time.monotonic() + seconds + 2


def _reap(children: dict[int, int], ends: dict[int, float], late: set[int]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        reply = children.pop(pid)
        ends.pop(pid, None)
        code = -signal.SIGALRM if pid in late else os.waitstatus_to_exitcode(status)
        late.discard(pid)
        with contextlib.suppress(OSError):
            if code:
                _write_frame(reply, ("died", -code))
        os.close(reply)


def _child(request: int, reply: int) -> None:
    """Compute one request and send its result; never returns."""
    global _replies
    code = 1
    try:
        die_with_parent(os.getppid())
        _close_others({request, reply})
        with os.fdopen(request, "rb") as source:
            function, args, kwargs, limits, environment, folder = pickle.load(source)
        with contextlib.suppress(OSError):
            os.chdir(folder)
        paths.become(environment)
        _limit(limits)
        _replies = reply
        _write_frame(reply, _compute(function, args, kwargs))
        code = 0
    except MemoryError:
        code = _last_words(reply)
    finally:
        os._exit(code)


def _compute(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[str, Any]:
    try:
        return "value", function(*args, **kwargs)
    except WorkbenchError as error:
        problems = getattr(error, "problems", None)
        return "raised", (type(error).__name__, error.args[0], error.hint, problems)
    except MemoryError:
        raise
    except BaseException:  # noqa: B036 - a panic of a Rust library is none of Exception
        return "bug", traceback.format_exc()[-8000:]


def _last_words(reply: int) -> int:
    with contextlib.suppress(Exception):
        _write_frame(reply, ("memory", 0))
        return 0
    return 1


def _close_others(kept: set[int]) -> None:
    for name in os.listdir("/proc/self/fd" if sys.platform == "linux" else "/dev/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(name))


def _limit(limits: Limits) -> None:
    """Ask the kernel to hold this process to `limits`; on systems that cannot, the clock still does."""
    seconds = limits.cpu if limits.cpu is not None else limits.seconds
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.seconds)
    space, data = _used()
    for what, most in (
        (resource.RLIMIT_CPU, int(seconds) + 1),
        (resource.RLIMIT_DATA, data + limits.memory),
        (resource.RLIMIT_AS, space + 2 * limits.memory + GIB),  # libraries reserve more than they use
        (resource.RLIMIT_FSIZE, limits.writes),
        (resource.RLIMIT_CORE, 0),
    ):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(what, (most, most + 5 if what == resource.RLIMIT_CPU else most))  # the hard limit kills without saying why


def _used() -> tuple[int, int]:
    """Bytes of address space, and of it of data, that this process has now."""
    try:
        fields = Path("/proc/self/statm").read_text().split()
    except OSError:
        return 0, 0
    page = resource.getpagesize()
    return int(fields[0]) * page, int(fields[5]) * page
