"""The way to a machine, as OpenSSH itself reads the same ssh_config; and the same known_hosts."""

import getpass
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.known_hosts import KnownHosts
from infra.pool import Machine, PoolError
from infra.ssh_route import Route, route_to

CONFIG = """
Include more/*.conf
Host alias al?as !albas
    HostName 10.0.0.%h
    Port 2201
Host *.inside
    ProxyJump me@gate:2202,second
    User = "deep user"
    IdentityFile ~/.ssh/deep
    IdentityFile /keys/%r@%h
    ConnectTimeout 3
Host gate
    HostName gate.example
    HostKeyAlias the-gate
Match host 10.0.0.alias user nobody
    Port 1
Match originalhost al*as
    IdentitiesOnly yes
Host six
    HostName fe80::1
Host *
    User everyone
    UserKnownHostsFile ~/.ssh/known ~/.ssh/"known two"
    Port 2299
"""
INCLUDED = """
Host included
    Port 7
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / ".ssh" / "more").mkdir(parents=True)
    (tmp_path / ".ssh" / "config").write_text(CONFIG)
    (tmp_path / ".ssh" / "more" / "a.conf").write_text(INCLUDED)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def openssh(home: Path, name: str) -> dict[str, list[str]]:
    """What `ssh` would do. It takes ~ from the user's entry and `Include` from its own place: both are written out."""
    if shutil.which("ssh") is None:
        pytest.skip("NOT TESTED: against OpenSSH's own reading: there is no ssh here")
    text = (home / ".ssh" / "config").read_text()
    text = text.replace("Include more", f"Include {home}/.ssh/more").replace("~", str(home))
    (home / "expanded").write_text(text)
    said = subprocess.run(["ssh", "-G", "-F", str(home / "expanded"), name], capture_output=True, text=True, check=True)
    found: dict[str, list[str]] = {}
    for line in said.stdout.splitlines():
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    return found


def chain(route: Route) -> Iterator[Route]:
    while route.jump is not None:
        route = route.jump
        yield route


@pytest.mark.parametrize("name", ["alias", "albas", "host.inside", "gate", "included", "second", "six", "other"])
def test_a_route_is_what_openssh_makes_of_the_same_file(home: Path, name: str) -> None:
    theirs = openssh(home, name)
    ours = route_to(Machine(name="m", address=name))
    assert [ours.host, str(ours.port), ours.user] == [theirs["hostname"][0], theirs["port"][0], theirs["user"][0]]
    assert ours.only_identities == (theirs["identitiesonly"] == ["yes"])
    assert ours.host_key_alias == theirs.get("hostkeyalias", [""])[0]
    jumps = [f"{hop.user}@{hop.name}:{hop.port}" for hop in chain(ours)][::-1]
    assert bool(jumps) == ("proxyjump" in theirs)
    assert ours.connect_s == float(theirs.get("connecttimeout", ["10"])[0].replace("none", "10"))
    assert [str(path) for path in ours.known_hosts[:2]] == [f"{home}/.ssh/known", f"{home}/.ssh/known two"]


def test_the_keys_of_all_blocks_are_tried_in_their_order(home: Path) -> None:
    """OpenSSH prints them without the values of % that it fills in later."""
    found = route_to(Machine(name="m", address="host.inside")).identities
    assert found == (home / ".ssh" / "deep", Path("/keys/deep user@host.inside"))
    assert openssh(home, "host.inside")["identityfile"] == [str(found[0]), "/keys/%r@%h"]


def test_every_hop_is_completed_by_its_own_block(home: Path) -> None:
    last = route_to(Machine(name="m", address="host.inside", key="~/mine"))
    second, first = chain(last)
    assert (second.host, second.user, second.port) == ("second", "everyone", 2299)
    assert (first.host, first.user, first.port, first.host_key_alias) == ("gate.example", "me", 2202, "the-gate")
    assert last.identities == (home / "mine",)
    assert first.identities[0] == second.identities[0] == home / "mine"
    assert len(first.identities) > 1
    assert (last.only_identities, first.only_identities) == (True, False)


def test_without_any_ssh_config_the_defaults_of_openssh_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    route = route_to(Machine(name="m", address="host"))
    assert (route.host, route.port, route.user, route.jump) == ("host", 22, getpass.getuser(), None)
    assert route.identities == tuple(tmp_path / ".ssh" / name for name in ("id_rsa", "id_ecdsa", "id_ed25519"))
    assert route.known_hosts[0] == tmp_path / ".ssh" / "known_hosts"
    assert Path("/etc/ssh/ssh_known_hosts") in route.known_hosts


def test_what_an_included_block_says_ends_with_its_file(home: Path) -> None:
    (home / ".ssh" / "config").write_text("Host a\n Include more/*.conf\n Port 5\nHost b\n Port 6\n")
    assert route_to(Machine(name="m", address="a")).port == 5
    assert route_to(Machine(name="m", address="b")).port == 6


def test_a_file_that_includes_itself_is_named(home: Path) -> None:
    (home / ".ssh" / "more" / "a.conf").write_text("Include more/a.conf\n")
    with pytest.raises(PoolError, match=r"more/a\.conf: includes itself: correct it"):
        route_to(Machine(name="m", address="a"))


def test_a_match_exec_that_is_not_about_this_host_does_not_matter(home: Path) -> None:
    (home / ".ssh" / "config").write_text('Match originalhost other exec "false"\n Port 5\nHost *\n Port 6\n')
    assert route_to(Machine(name="m", address="mine")).port == 6
    with pytest.raises(PoolError, match="write `!originalhost other` before `exec` there"):
        route_to(Machine(name="m", address="other"))
    (home / ".ssh" / "config").write_text('Match !originalhost other exec "false"\n Port 5\nHost *\n Port 6\n')
    assert route_to(Machine(name="m", address="other")).port == 6


def test_a_jump_host_that_is_no_destination_is_named(home: Path) -> None:
    (home / ".ssh" / "config").write_text("ProxyJump a:b:c\n")
    with pytest.raises(PoolError, match="jump host 'a:b:c': "):
        route_to(Machine(name="m", address="a"))


NAMES = [
    "plain", "PLAIN", "a,plain,b", "pl*", "pl?in", "pla", "plain2", "*,!plain", "!other,*", "[plain]:22", "*",
    "p[lx]ain", "[plain]:2022", "[pl*]:2022", "[plain]:*", "!plain", "10.0.0.1", "|1|bad|hash", "",
]  # fmt: skip


@pytest.mark.parametrize("hashed", [False, True])
@pytest.mark.parametrize(("host", "port"), [("plain", 22), ("plain", 2022), ("10.0.0.1", 22)])
def test_a_known_hosts_line_is_of_the_hosts_that_ssh_keygen_finds_there(
    tmp_path: Path, host: str, port: int, hashed: bool
) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("NOT TESTED: against OpenSSH's own reading: there is no ssh-keygen here")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    text = Path(f"{key}.pub").read_text()
    name = host if port == 22 else f"[{host}]:{port}"
    theirs, ours = [], []
    for names in NAMES:
        file = tmp_path / "known"
        file.write_text(f"{names} {text}")
        if hashed:
            subprocess.run(["ssh-keygen", "-H", "-f", str(file)], check=False, capture_output=True)
        found = subprocess.run(["ssh-keygen", "-F", name, "-f", str(file)], capture_output=True)
        theirs.append(found.returncode == 0)
        # ssh-keygen is not asked for the line of the plain name, which counts for a port as well
        ours.append(KnownHosts([file], name, 22).types() == ["ssh-ed25519"])
    assert dict(zip(NAMES, ours, strict=True)) == dict(zip(NAMES, theirs, strict=True))
    assert any(theirs)
    assert not all(theirs)
