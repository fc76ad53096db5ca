"""The conversation with whoever asks: requests on our input, answers on our output, one after another.

Each is a line of JSON and then as many bytes as its `size` says. With the input ends what is in hand.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from infra.remote import files, program, unused
from infra.remote.daemons import Daemon
from infra.remote.processes import Refused, boot_id


class Session:
    """Its public methods are the requests. Paths are relative to `root`, or absolute."""

    def __init__(self, root: str) -> None:
        self._umask = os.umask(0o077)  # what is made here is for its owner alone, unless it is said otherwise
        # two spellings of one directory are one pool: processes are known by the paths in it
        self._root = Path(root).expanduser().resolve()
        self._next: tuple[str, list[str], dict[str, str]] | None = None
        self._children: list[subprocess.Popen[bytes]] = []
        # A raylet that ends must not stay a zombie: its workers wait until it is gone.
        signal.signal(signal.SIGCHLD, lambda *_: self._reap())

    def _reap(self) -> None:
        for child in self._children:
            child.poll()

    def _path(self, path: str) -> Path:
        return self._root / path

    def _daemon(self, name: str) -> Daemon:
        return Daemon(self._root / "run", name)

    def look(self) -> dict[str, Any]:
        there = next(path for path in (self._root, *self._root.parents) if path.exists())
        if there == self._root and (there.stat().st_uid != os.getuid() or there.stat().st_mode & 0o022):
            # who writes there has its code run as us
            raise Refused(
                f"{there} is another user's, or others may write there: `chmod go-w` it, or set another `root`"
            )
        disk = os.statvfs(there)
        try:
            user = pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # the users of a container need no entry
            user = str(os.getuid())
        return {
            "python": platform.python_version(),
            "executable": sys.executable,
            "user": user,
            "uid": os.getuid(),
            "home": str(Path.home()),
            "root": str(self._root),
            "boot": boot_id(),
            "arch": platform.machine(),
            "hostname": socket.gethostname(),
            "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
            "free_disk_bytes": disk.f_bavail * disk.f_frsize,
            # the client's address and port, then ours
            "address": [*os.environ.get("SSH_CONNECTION", "").split(), "", "", ""][2],
        }

    def exists(self, path: str) -> bool:
        return self._path(path).exists()

    def read(self, path: str, limit: int) -> bytes:
        with self._path(path).open("rb") as file:
            data = file.read(limit + 1)
        if len(data) > limit:
            raise Refused(f"{path} has more than {limit} bytes")
        return data

    def put(self, path: str, mode: int, body: bytes) -> None:
        files.replace(self._path(path), body, mode)

    def unpack(self, path: str, body: bytes) -> bool:
        return files.unpack(self._path(path), body)

    def token(self, path: str) -> str:
        return files.secret(self._path(path))

    def run(self, argv: list[str], env: dict[str, str], timeout_s: float) -> dict[str, Any]:
        return program.run(argv, env, self._umask, timeout_s)

    def process(self, name: str) -> dict[str, Any] | None:
        return self._daemon(name).alive()

    def start_process(
        self, name: str, argv: list[str], env: dict[str, str], info: dict[str, Any], ready: str, within_s: float
    ) -> dict[str, Any]:
        return self._daemon(name).start(argv, env, info, ready, within_s, self._umask, self._children)

    def stop_process(self, name: str, grace_s: float) -> bool:
        return self._daemon(name).stop(grace_s)

    def prune(self, keep: list[str], newest: int, young_s: float) -> list[str]:
        return unused.prune(self._root, keep, newest, young_s)

    def free_port(self) -> int:
        with socket.socket() as found:
            found.bind(("", 0))
            port: int = found.getsockname()[1]
            return port

    def become(self, argv: list[str], env: dict[str, str]) -> None:
        """When that is answered, `leave` makes us this program."""
        program_file = shutil.which(argv[0])
        if program_file is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), argv[0])
        self._next = (program_file, argv, {**os.environ, **env})

    def leave(self, output: int) -> None:
        if self._next is not None:
            os.umask(self._umask)
            os.dup2(output, 1)
            os.execve(*self._next)


def main() -> None:
    # what a program of ours prints must not garble the conversation
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    hello = json.loads(requests.readline())
    session = Session(hello["root"])
    # what a login shell printed ends here
    answers.write(b"\n%s\n" % hello["marker"].encode())
    answers.flush()
    while line := requests.readline():
        request = json.loads(line)
        arguments = request["arguments"]
        if request["size"] is not None:
            arguments["body"] = requests.read(request["size"])
            if len(arguments["body"]) < request["size"]:
                return
        answer: dict[str, Any] = {"said": None, "size": None}
        body = b""
        try:
            said = getattr(session, request["do"])(**arguments)
            if isinstance(said, bytes):
                body = said
                answer["size"] = len(said)
            else:
                answer["said"] = said
        except Refused as e:
            answer["refused"] = str(e)
        except OSError as e:
            answer["refused"] = f"{e.strerror or e}{f': {e.filename}' if e.filename else ''}"
            answer["errno"] = e.errno
        answers.write(json.dumps(answer).encode() + b"\n" + body)
        answers.flush()
        session.leave(answers.fileno())


def serve() -> None:
    """Until nobody is there any more."""
    try:
        main()
    except (BrokenPipeError, program.Deserted):
        os._exit(1)  # a flush at exit would say it again
