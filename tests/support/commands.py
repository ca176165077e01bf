"""Command lines in processes of their own that start with the libraries loaded.

Most of a short command is Python starting and importing. `Commands` keeps a process that has done
this and has run nothing; each command is a fork of it, with an environment, a folder and streams of
its own, that ends like `python -m graphfuse` and with its exit code.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

SECONDS = 300
EARLY = ("PYTHON", "LD_", "MALLOC_", "OMP_", "OPENBLAS_")
MOST = 1 << 20
"""How long a command with its environment may be, in bytes."""


class Commands:
    """Runs `graphfuse ARGUMENTS`; what the environment may change at the start runs from the start."""

    def __init__(self) -> None:
        self._start = _environment()
        self._server: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def run(
        self,
        *arguments: str | Path,
        cwd: Path,
        env: dict[str, str] | None = None,
        stdout: int | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The exit code, the output and the errors of one command in a folder.

        With `stdout`, a descriptor, the output goes there.
        """
        command = [sys.executable, "-m", "graphfuse", *map(str, arguments)]
        environment = {**_environment(), **(env or {})}
        if sys.platform != "linux" or env or _at_start(environment) != _at_start(self._start):
            return subprocess.run(
                command, cwd=cwd, env=environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if stdout is None else stdout, stderr=subprocess.PIPE,
                text=True, encoding="utf-8", check=False, timeout=SECONDS,
            )  # fmt: skip
        request = json.dumps([command[3:], str(cwd), environment]).encode()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            code = self._fork(request, [stdout or out.fileno(), err.fileno()])
            said = []
            for stream in (out, err):
                stream.seek(0)
                said.append(stream.read().decode())
        return subprocess.CompletedProcess(command, code, *said)

    def _fork(self, request: bytes, streams: list[int]) -> int:
        if self._socket is None:
            self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._server = subprocess.Popen(
                # Without its folder in the path: nothing of the checkout is imported that way.
                [sys.executable, "-P", __file__, str(other.fileno())],
                cwd="/", env=self._start, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, pass_fds=[other.fileno()],
            )  # fmt: skip
            other.close()
        socket.send_fds(self._socket, [request], streams)
        self._socket.settimeout(SECONDS)
        pid = int(self._socket.recv(64))
        try:
            return int(self._socket.recv(64))
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            self._socket.recv(64)
            raise subprocess.TimeoutExpired(request.decode(), SECONDS) from None

    def close(self) -> None:
        """End the process that waits for commands."""
        if self._socket is not None and self._server is not None:
            self._socket.close()
            self._server.wait(SECONDS)


def _environment() -> dict[str, str]:
    """This process's, without what says how wide its own terminal is and which test runs."""
    mine = ("COLUMNS", "PYTEST_CURRENT_TEST")
    return {key: value for key, value in os.environ.items() if key not in mine}


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment acts before a process runs anything of ours."""
    return {key: value for key, value in environment.items() if key.startswith(EARLY)}


def _serve(channel: socket.socket) -> None:
    """Fork for each command; returns in the forks, and ends where nobody asks any more."""

    # Not onnxruntime: a fork of what has loaded it waits for ever for a thread that is not there.
    # numpy's threads wait, and are started again.
    warnings.filterwarnings("ignore", "This process is multi-threaded", DeprecationWarning)
    while True:
        request, streams, _, _ = socket.recv_fds(channel, MOST, 2)
        if not request:
            raise SystemExit
        pid = os.fork()
        if not pid:
            arguments, folder, environment = json.loads(request)
            for place, stream in enumerate(streams, 1):
                os.dup2(stream, place)
                os.close(stream)
            sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
            sys.stderr = sys.__stderr__ = os.fdopen(
                2, "w", 1, None, "backslashreplace", None, False
            )
            channel.close()
            os.environ.clear()
            os.environ.update(environment)
            os.chdir(folder)
            sys.path.insert(0, folder)
            sys.argv = ["graphfuse", *arguments]
            return
        for stream in streams:
            os.close(stream)
        channel.send(b"%d" % pid)
        _, status = os.waitpid(pid, 0)
        channel.send(b"%d" % os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
    runpy.run_module("graphfuse", run_name="__main__", alter_sys=True)
