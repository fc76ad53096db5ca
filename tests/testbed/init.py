"""The first process of a testbed's machine: makes the file systems it boots with, then reaps what nobody waits for.

A program, started as process 1 of new mount, PID, UTS, IPC and network namespaces, and told by one JSON argument
(`Boot`) what the machine is. It says two lines: its pid as the outside knows it, and "up". It lives as long as its
standard input is open, which is its maker's end of a pipe: a maker that is killed takes its machines along, because the
kernel ends every process of a PID namespace with the first one.

The machine sees this one's programs, read-only, and its Python; everything it can write to is its own. It does not see
the repository: what runs there came by the network.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "fuse", "kmsg")
BOOT_ID = "/proc/sys/kernel/random/boot_id"


class Boot(NamedTuple):
    """What a machine boots with. Paths are this machine's, as they are before it covers any of them."""

    hostname: str
    etc: str  # a directory: what it holds lies over the files and directories of /etc
    homes: dict[str, str]  # where each lies on the machine -> the directory that keeps it
    boot_id: str  # a file
    keep: list[str]  # directories that stay visible where they are
    hide: list[str]  # directories that are empty on the machine
    vfio: str  # the Python program that serves /dev/vfio
    groups: list[str]  # of /dev/vfio


def mount(*words: str | Path) -> None:
    subprocess.run(["mount", *words], check=True)


def fresh(folder: str, options: str = "mode=0755") -> None:
    mount("-t", "tmpfs", "-o", options, "tmpfs", folder)


def opened(path: str | Path) -> int:
    """A way to what lies there now, whatever covers the path later."""
    descriptor = os.open(path, os.O_PATH)
    os.set_inheritable(descriptor, True)
    return descriptor


def bind(descriptor: int, target: str | Path) -> None:
    """What was opened lies at `target` too. Not by its path, as `mount` would otherwise take it: that is covered."""
    way = f"/proc/self/fd/{descriptor}"
    subprocess.run(["mount", "--no-canonicalize", "--rbind", way, target], check=True, close_fds=False)


def devices() -> None:
    """A /dev of its own, made aside and moved there when it holds what the old one lends it."""
    aside = Path("/run/dev")
    aside.mkdir()
    fresh(str(aside))
    for name in DEVICES:
        if Path("/dev", name).exists():
            (aside / name).touch()
            mount("--bind", Path("/dev", name), aside / name)
    for name in ("pts", "shm", "vfio"):
        (aside / name).mkdir()
    for name, target in {"fd": "fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}.items():
        (aside / name).symlink_to(f"/proc/self/{target}")
    (aside / "ptmx").symlink_to("pts/ptmx")
    mount("--move", aside, "/dev")
    mount("-t", "devpts", "-o", "newinstance,ptmxmode=0666", "devpts", "/dev/pts")
    fresh("/dev/shm", "mode=1777")


def build(boot: Boot) -> None:
    mount("--make-rprivate", "/")
    homes = {home: opened(keeper) for home, keeper in boot.homes.items()}
    kept = {path: opened(path) for path in boot.keep}
    etc = {path.name: opened(path) for path in Path(boot.etc).iterdir()}
    boot_id, vfio = opened(boot.boot_id), opened(boot.vfio)
    # first, because the next ones may lie above them
    for folder in (*boot.hide, "/run", "/home"):
        fresh(folder)
    for folder in ("/tmp", "/var/tmp"):
        fresh(folder, "mode=1777")
    Path("/run/sshd").mkdir()
    for home, descriptor in homes.items():
        Path(home).mkdir(exist_ok=True)
        bind(descriptor, home)
    for path, descriptor in kept.items():
        Path(path).mkdir(parents=True, exist_ok=True)
        bind(descriptor, path)
    for name, descriptor in etc.items():
        bind(descriptor, Path("/etc", name))
    mount("-t", "proc", "proc", "/proc")
    bind(boot_id, BOOT_ID)
    devices()
    serve_vfio(vfio, boot.groups)
    mount("-o", "remount,bind,ro", "/")
    for descriptor in (*homes.values(), *kept.values(), *etc.values(), boot_id, vfio):
        os.close(descriptor)
    socket.sethostname(boot.hostname)


def serve_vfio(program: int, groups: list[str]) -> None:
    """Raises RuntimeError when it does not come up."""
    command = [sys.executable, f"/proc/self/fd/{program}", "/dev/vfio", *groups]
    # not waited for here: it is a child like any other
    server = subprocess.Popen(command, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    if server.stdout.readline() != "mounted\n":
        raise RuntimeError("the stand-in for /dev/vfio did not start: see above")


def reap(*_: object) -> None:
    """Waits for every child that has ended: its own, and those whose parents ended before them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def main() -> None:
    # /proc is still the outside's: it knows this process by the pid it has there
    print(Path("/proc/self").readlink(), flush=True)
    build(Boot(**json.loads(sys.argv[1])))
    print("up", flush=True)
    signal.signal(signal.SIGCHLD, reap)
    reap()
    sys.stdin.read()


if __name__ == "__main__":
    main()
