"""Who may log in to a testbed's machines, and what lies in their /etc: accounts, names, keys, the settings of sshd."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Account(NamedTuple):
    name: str
    number: int  # uid and gid
    home: str


ROOT = Account("root", 0, "/root")
ANN = Account("ann", 4001, "/home/ann")
BOB = Account("bob", 4002, "/home/bob")
ACCOUNTS = (ROOT, ANN, BOB)

# sshd gives up its rights to this one, and to `nobody` what has no owner here.
OTHERS = (Account("sshd", 4100, "/run/sshd"), Account("nobody", 65534, "/"))

SSHD_CONFIG = """
HostKey /etc/ssh/host_key
PidFile /run/sshd.pid
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
UsePAM no
UseDNS no
PrintMotd no
# the machine's Python is the one that runs the tests: every machine that runs them has it
SetEnv PATH={path}
"""
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PATH = f"{Path(sys.base_prefix) / 'bin'}:{SYSTEM_PATH}"


def new_key(path: Path) -> str:
    """A key pair at `path` and `path`.pub, in place of what was there. Returns the public half."""
    path.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", path.name, "-f", path], check=True)
    return path.with_name(f"{path.name}.pub").read_text().strip()


def write_etc(etc: Path, hostname: str, addresses: Mapping[str, str]) -> None:
    """What a machine has in /etc that is its own. `addresses`: of all machines, by name."""
    (etc / "ssh").mkdir(parents=True)
    everybody = (*ACCOUNTS, *OTHERS)
    lines = {
        "passwd": [f"{a.name}:x:{a.number}:{a.number}::{a.home}:/bin/sh" for a in everybody],
        "group": [f"{a.name}:x:{a.number}:" for a in everybody],
        "shadow": [f"{a.name}:*:1::::::" for a in everybody],
        "hostname": [hostname],
        "hosts": ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())],
        "ssh/sshd_config": [SSHD_CONFIG.format(path=PATH)],
    }
    for name, content in lines.items():
        (etc / name).write_text("\n".join(content) + "\n")
    new_key(etc / "ssh" / "host_key")


def write_home(home: Path, account: Account, authorized: str) -> None:
    """A home directory as a system administrator makes it: the account's own, with the keys that may log in."""
    ssh = home / ".ssh"
    ssh.mkdir(parents=True, mode=0o700)
    (ssh / "authorized_keys").write_text(authorized + "\n")
    home.chmod(0o755)
    for path in (home, ssh, ssh / "authorized_keys"):
        os.chown(path, account.number, account.number)
