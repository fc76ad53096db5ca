"""SSH to a real sshd: whom it believes, as whom it comes, what it does when the other side goes silent."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from infra import ssh
from infra.pool import PoolError
from infra.ssh import Connection, SshError
from tests.processes import wait_until
from tests.sshd import Sshd, free_port, keygen, make_sshd, sshd

__all__ = ["make_sshd", "sshd"]


def said_by(connection: Connection, command: str = "printf %s hello") -> bytes:
    process = connection.command(command)
    said = b""
    while chunk := process.receive(100, 30.0):
        said += chunk
    return said


def refusal(machine_of: Sshd, **fields: object) -> str:
    """What is said when nothing can be opened: one sentence, and no thread of the connection is left."""
    with pytest.raises(PoolError) as refused:
        Connection.open(machine_of.machine(**fields))
    assert "\n" not in str(refused.value)
    wait_until(lambda: not paramiko_threads(), what="the end of its threads")
    return str(refused.value)


def paramiko_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if type(t).__module__.startswith("paramiko") or t.name.startswith("ssh ")]


def fingerprint(key: Path) -> str:
    blob = b64decode(Sshd.public(key).split()[1])
    return "SHA256:" + b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def config(sshd: Sshd, text: str) -> None:
    (sshd.client / ".ssh" / "config").write_text(text)


@pytest.fixture
def agent(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh-agent of the test's own, in the environment."""
    place = sshd.client / "agent"
    process = subprocess.Popen(["ssh-agent", "-D", "-a", str(place)], stdout=subprocess.DEVNULL)
    wait_until(place.exists, what="ssh-agent")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(place))
    yield
    process.kill()
    process.wait()


# -- a program ---------------------------------------------------------------------------------------------------------


def test_a_command_speaks_both_ways_and_ends_with_its_status(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("cat; echo bad >&2; exit 7")
    process.send(b"x" * 3_000_000)
    process.close_input()
    heard = 0
    while chunk := process.receive(1 << 16, 30.0):
        heard += len(chunk)
    assert (heard, process.exit_status, process.stderr, process.is_open) == (3_000_000, 7, "bad", False)
    connection.close()


def test_many_programs_share_a_connection(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    first, second = connection.command("cat"), connection.command("cat")
    second.send(b"2")
    first.send(b"1")
    assert (first.receive(9, 30.0), second.receive(9, 30.0)) == (b"1", b"2")
    connection.close()


def test_an_error_output_that_nobody_reads_stops_nothing(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("head -c 5000000 /dev/zero >&2; echo end >&2; echo done")
    assert process.receive(100, 60.0) == b"done\n"
    assert process.receive(100, 60.0) == b""
    assert process.stderr.endswith("end")
    connection.close()


def test_a_program_that_says_nothing_is_a_timeout_and_can_still_be_heard_later(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("read line; echo $line")
    with pytest.raises(TimeoutError):
        process.receive(100, 0.1)
    assert process.exit_status is None
    process.send(b"late\n")
    assert process.receive(100, 30.0) == b"late\n"
    connection.close()


def test_a_program_that_takes_nothing_is_a_timeout_though_its_connection_lives(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("sleep 1000")
    with pytest.raises(TimeoutError):
        process.send(b"x" * 50_000_000, stall_s=1.0)
    assert connection.is_alive
    connection.close()


def test_a_program_killed_by_a_signal_has_no_status_of_its_own(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("kill -9 $$")
    assert process.receive(100, 30.0) == b""
    assert process.exit_status == -1
    with pytest.raises(SshError, match="the program there has ended"):
        process.send(b"x")
    connection.close()


@pytest.mark.parametrize("closer", ["process", "connection"])
def test_closing_wakes_who_waits_in_another_thread(sshd: Sshd, closer: str) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("cat")
    told: list[Exception] = []

    def wait() -> None:
        try:
            process.receive(100, 60.0)
        except (SshError, TimeoutError) as e:
            told.append(e)

    waiter = threading.Thread(target=wait)
    waiter.start()
    (process if closer == "process" else connection).close()
    waiter.join(30.0)
    assert [type(e) for e in told] == [SshError]
    connection.close()


# -- the host's key ----------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_refused_with_its_fingerprint_and_the_command_that_accepts_it(sshd: Sshd) -> None:
    sshd.known_hosts.write_text("")
    said = refusal(sshd)
    assert f"ssh-ed25519 {fingerprint(sshd.host_key)} is not known" in said
    accept = f"ssh-keyscan -p {sshd.port} 127.0.0.1 >> {sshd.known_hosts}"
    assert f"`{accept}`" in said
    subprocess.run(["sh", "-c", accept], check=True, capture_output=True)
    connection = Connection.open(sshd.machine())
    assert said_by(connection) == b"hello"
    connection.close()


def test_a_changed_key_is_refused_with_file_line_and_the_command_that_forgets_it(sshd: Sshd) -> None:
    other = sshd.folder / "other"
    keygen(other)
    name = f"[127.0.0.1]:{sshd.port}"
    sshd.known_hosts.write_text(f"# a comment\n\n{name} {sshd.public(other)}")
    said = refusal(sshd)
    assert "its key changed" in said
    assert f"{sshd.known_hosts}:3 has ssh-ed25519 {fingerprint(other)}" in said
    assert f"shows ssh-ed25519 {fingerprint(sshd.host_key)}" in said
    forget = f"ssh-keygen -R '{name}' -f {sshd.known_hosts}"
    assert f"`{forget}`" in said
    subprocess.run(["sh", "-c", forget], check=True, capture_output=True)
    assert "is not known" in refusal(sshd)


def test_an_accepted_host_whose_key_changes_under_us_is_refused(sshd: Sshd) -> None:
    Connection.open(sshd.machine()).close()
    sshd.end()
    sshd.host_key.unlink()
    keygen(sshd.host_key)
    sshd.start()
    assert "its key changed" in refusal(sshd)


def test_a_revoked_key_is_refused_though_another_line_knows_it(sshd: Sshd) -> None:
    with sshd.known_hosts.open("a") as file:
        file.write(f"@revoked * {sshd.public(sshd.host_key)}")
    assert f"is revoked by {sshd.known_hosts}:2" in refusal(sshd)


def test_the_word_of_an_authority_is_not_taken(sshd: Sshd) -> None:
    sshd.known_hosts.write_text(f"@cert-authority * {sshd.public(sshd.host_key)}")
    assert "is not known" in refusal(sshd)


def test_no_option_of_ssh_config_makes_us_believe_an_unknown_host(sshd: Sshd) -> None:
    config(sshd, "StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nCheckHostIP no\n")
    assert "is not known" in refusal(sshd)


def test_a_host_with_keys_of_several_kinds_is_asked_for_the_known_one(sshd: Sshd) -> None:
    rsa = sshd.folder / "host_rsa"
    keygen(rsa, "rsa")
    sshd.end()
    sshd.options = [f"HostKey {rsa}"]
    sshd.start()
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {sshd.public(rsa)}")
    Connection.open(sshd.machine()).close()


def test_a_host_known_by_a_key_of_a_kind_it_has_no_more_is_refused(sshd: Sshd) -> None:
    rsa = sshd.folder / "host_rsa"
    keygen(rsa, "rsa")
    sshd.known_hosts.write_text(f"[127.0.0.1]:{sshd.port} {sshd.public(rsa)}")
    said = refusal(sshd)
    assert "its key changed" in said
    assert "has ssh-rsa" in said


@pytest.mark.parametrize(
    "line",
    [
        "[127.0.0.1]:{port} {key}",
        "other,[127.0.0.1]:{port},third {key}",
        "[127.0.*]:* {key}",
        "[127.0.0.?]:{port} {key}",
        "127.0.0.1 {key}",
    ],
)
def test_a_host_is_known_by_every_way_to_write_its_name(sshd: Sshd, line: str) -> None:
    sshd.known_hosts.write_text(line.format(port=sshd.port, key=sshd.public(sshd.host_key)))
    Connection.open(sshd.machine()).close()


def test_a_hashed_line_is_known(sshd: Sshd) -> None:
    subprocess.run(["ssh-keygen", "-H", "-f", str(sshd.known_hosts)], check=True, capture_output=True)
    assert sshd.known_hosts.read_text().startswith("|1|")
    Connection.open(sshd.machine()).close()


@pytest.mark.parametrize(
    "line", ["![127.0.0.1]:*,!127.0.0.1,* {key}", "[127.0.0.1]:1 {key}", "# {key}", "[127x0x0x1]:{port} {key}"]
)
def test_a_line_of_another_host_is_not_taken(sshd: Sshd, line: str) -> None:
    sshd.known_hosts.write_text(line.format(port=sshd.port, key=sshd.public(sshd.host_key)))
    assert "is not known" in refusal(sshd)


def test_a_host_key_alias_and_other_files_are_honoured(sshd: Sshd, tmp_path: Path) -> None:
    sshd.known_hosts.unlink()
    known = tmp_path / "known to all"
    known.write_text(f"the-alias {sshd.public(sshd.host_key)}")
    config(sshd, f'UserKnownHostsFile none\nGlobalKnownHostsFile {tmp_path}/none "{known}"\nHostKeyAlias the-alias\n')
    Connection.open(sshd.machine()).close()
    known.write_text(f"[127.0.0.1]:{sshd.port} {sshd.public(sshd.host_key)}")
    assert f"ssh -o HostKeyAlias=the-alias -p {sshd.port} 127.0.0.1" in refusal(sshd)


# -- who we are --------------------------------------------------------------------------------------------------------


def test_a_key_that_is_not_accepted_says_what_was_tried_and_what_to_do(sshd: Sshd) -> None:
    sshd.authorized.write_text("")
    said = refusal(sshd)
    assert f"did not accept them ({sshd.key})" in said
    assert "authorized_keys" in said


def test_no_key_at_all_says_so(sshd: Sshd) -> None:
    sshd.key.unlink()
    assert "there is no key to log in with" in refusal(sshd)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
def test_the_key_of_the_pool_file_is_used_whatever_its_kind(sshd: Sshd, kind: str) -> None:
    key = sshd.client / "my key"
    keygen(key, kind)
    sshd.authorized.write_text(sshd.public(key))
    Connection.open(sshd.machine(key="~/my key")).close()


def test_a_missing_key_of_the_pool_file_is_named(sshd: Sshd) -> None:
    said = refusal(sshd, key="~/none")
    assert f"{sshd.client}/none does not exist" in said


@pytest.mark.usefixtures("agent")
def test_a_key_with_a_passphrase_needs_the_agent_and_is_found_there(sshd: Sshd) -> None:
    key = sshd.client / "locked"
    keygen(key, passphrase="secret words")
    sshd.authorized.write_text(sshd.public(key))
    said = refusal(sshd, key=str(key))
    assert f"{key} has a passphrase: unlock it with `ssh-add {key}`" in said
    asked = sshd.folder / "askpass"
    asked.write_text("#!/bin/sh\necho secret words\n")
    asked.chmod(0o700)
    environment = {**os.environ, "SSH_ASKPASS": str(asked), "SSH_ASKPASS_REQUIRE": "force", "DISPLAY": "x"}
    subprocess.run(["ssh-add", str(key)], env=environment, check=True, capture_output=True)
    Connection.open(sshd.machine(key=str(key))).close()
    Path(f"{key}.pub").unlink()  # its public part is in the private file, too
    Connection.open(sshd.machine(key=str(key))).close()


@pytest.mark.usefixtures("agent")
def test_the_agents_keys_are_used_unless_only_identities_are_wanted(sshd: Sshd) -> None:
    subprocess.run(["ssh-add", str(sshd.key)], check=True, capture_output=True)
    moved = sshd.key.rename(sshd.client / "elsewhere")
    Connection.open(sshd.machine()).close()
    config(sshd, "IdentitiesOnly yes\nIdentityFile ~/.ssh/none\n")
    assert "there is no key to log in with" in refusal(sshd)
    config(sshd, f"IdentitiesOnly yes\nIdentityFile {moved}\n")
    Connection.open(sshd.machine()).close()


@pytest.mark.usefixtures("agent")
def test_an_agent_with_many_keys_does_not_use_up_the_tries_of_the_right_one(sshd: Sshd) -> None:
    for number in range(8):
        keygen(sshd.client / f"k{number}")
        subprocess.run(["ssh-add", str(sshd.client / f"k{number}")], check=True, capture_output=True)
    Connection.open(sshd.machine(key=str(sshd.key))).close()
    Connection.open(sshd.machine()).close()
    sshd.authorized.write_text("")
    assert "ended the connection" in refusal(sshd)


def test_an_agent_that_is_gone_does_not_matter(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    Connection.open(sshd.machine()).close()


def test_a_server_that_takes_no_keys_is_told_from_one_that_does_not_take_ours(sshd: Sshd) -> None:
    sshd.end()
    sshd.options = ["PubkeyAuthentication no", "KbdInteractiveAuthentication yes", "PasswordAuthentication yes"]
    sshd.start()
    assert "and no key: let it take public keys" in refusal(sshd)


# -- the way there -----------------------------------------------------------------------------------------------------


def test_an_alias_of_ssh_config_brings_address_port_user_and_key(sshd: Sshd) -> None:
    key = sshd.key.rename(sshd.client / "other")
    config(sshd, f"Host tpu-?\n HostName 127.0.0.1\n Port {sshd.port}\n User {sshd.user}\n IdentityFile {key}\n")
    connection = Connection.open(sshd.machine(address="tpu-1", port=None))
    assert said_by(connection) == b"hello"
    connection.close()


def test_what_the_pool_file_says_wins_over_ssh_config(sshd: Sshd) -> None:
    config(sshd, "Host *\n Port 1\n User nobody-there\n IdentityFile ~/.ssh/none\n ProxyJump nowhere.invalid\n")
    machine = sshd.machine(user=sshd.user, key=str(sshd.key), jump="none")
    Connection.open(machine).close()


@pytest.fixture
def behind(sshd: Sshd, make_sshd: Callable[..., Sshd], monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """A second sshd, which the user of the first knows as well."""
    other = make_sshd()
    monkeypatch.setenv("HOME", str(sshd.client))
    other.authorized.write_text(sshd.public(sshd.key))
    with sshd.known_hosts.open("a") as file:
        file.write(f"[127.0.0.1]:{other.port} {sshd.public(other.host_key)}")
    return other


def test_a_host_behind_another_is_reached_through_it(sshd: Sshd, behind: Sshd) -> None:
    connection = Connection.open(behind.machine(jump=f"{sshd.user}@127.0.0.1:{sshd.port}"))
    assert f" {sshd.port}\n" not in said_by(connection, "echo $SSH_CONNECTION").decode()
    assert said_by(connection, "echo $SSH_CONNECTION").decode().endswith(f" {behind.port}\n")
    assert (len(sshd.sessions()), len(behind.sessions())) == (1, 1)
    connection.close()
    wait_until(lambda: not sshd.sessions() and not behind.sessions(), what="the end of both connections")


def test_a_chain_of_ssh_config_is_followed_with_each_hops_own_settings(sshd: Sshd, behind: Sshd) -> None:
    config(
        sshd,
        f"Host last\n HostName 127.0.0.1\n Port {behind.port}\n ProxyJump first,second\n"
        f"Host first\n HostName 127.0.0.1\n Port {sshd.port}\n"
        f"Host second\n HostName 127.0.0.1\n Port {behind.port}\n ProxyJump nowhere.invalid\n",
    )
    connection = Connection.open(sshd.machine(address="last", port=None))
    assert said_by(connection) == b"hello"
    assert (len(sshd.sessions()), len(behind.sessions())) == (1, 2)
    connection.close()


def test_every_hop_must_be_known(sshd: Sshd, behind: Sshd) -> None:
    jump = f"127.0.0.1:{sshd.port}"
    lines = sshd.known_hosts.read_text().splitlines(keepends=True)
    sshd.known_hosts.write_text(lines[1])
    assert f":{sshd.port}): its key" in refusal(behind, jump=jump)
    sshd.known_hosts.write_text(lines[0])
    said = refusal(behind, jump=jump)
    assert f":{behind.port} through 127.0.0.1): its key" in said
    assert f"`ssh -J 127.0.0.1 -p {behind.port} 127.0.0.1`" in said


def test_a_hop_that_cannot_go_on_says_where(sshd: Sshd) -> None:
    dead = free_port()
    said = refusal(sshd, port=dead, jump=f"127.0.0.1:{sshd.port}")
    assert f":{dead} through 127.0.0.1): 127.0.0.1 cannot connect to it" in said


def test_a_host_that_is_reached_through_itself_is_refused(sshd: Sshd) -> None:
    config(sshd, "Host round\n HostName 127.0.0.1\n ProxyJump round\n")
    assert "more than 8 jump hosts" in refusal(sshd, address="round")


def test_a_proxy_command_is_refused_and_not_run(sshd: Sshd, tmp_path: Path) -> None:
    config(sshd, f"ProxyCommand touch {tmp_path}/ran\n")
    assert "ProxyCommand, a line for a shell, and hillclimb runs none" in refusal(sshd)
    assert not (tmp_path / "ran").exists()


def test_a_match_exec_is_refused_and_not_run(sshd: Sshd, tmp_path: Path) -> None:
    config(sshd, f'Match exec "touch {tmp_path}/ran"\n User x\n')
    assert "Match exec" in refusal(sshd)
    assert not (tmp_path / "ran").exists()


def test_an_unreadable_ssh_config_is_named(sshd: Sshd) -> None:
    config(sshd, "Port\n")
    assert str(sshd.client / ".ssh" / "config") in refusal(sshd)
    config(sshd, "Port many\n")
    assert "port many is not a number" in refusal(sshd, port=None)


# -- the other side goes -----------------------------------------------------------------------------------------------


def test_nobody_listening_and_no_such_host_are_told_apart(sshd: Sshd) -> None:
    assert "Connection refused" in refusal(sshd, port=free_port())
    assert "no such host" in refusal(sshd, address="no-such-host.invalid")


def test_a_server_that_is_no_sshd_is_refused(sshd: Sshd) -> None:
    config(sshd, "ConnectTimeout 2\n")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    peer.close()

        threading.Thread(target=hang_up, daemon=True).start()
        assert "its sshd ended the connection" in refusal(sshd, port=server.getsockname()[1])


@pytest.mark.slow
def test_many_connections_at_once_all_come_through_an_sshd_that_drops_some(sshd: Sshd) -> None:
    sshd.end()
    sshd.options = ["MaxStartups 2"]
    sshd.start()
    opened: list[Connection] = []
    threads = [threading.Thread(target=lambda: opened.append(Connection.open(sshd.machine()))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert len(opened) == 12
    assert "MaxStartups" in (sshd.folder / "sshd.log").read_text()
    for connection in opened:
        connection.close()


def test_an_sshd_that_hangs_before_it_speaks_ends_in_time(sshd: Sshd) -> None:
    config(sshd, "ConnectTimeout 2\n")
    os.kill(sshd.process.pid, signal.SIGSTOP)
    began = time.monotonic()
    try:
        said = refusal(sshd)
    finally:
        os.kill(sshd.process.pid, signal.SIGCONT)
    assert "its sshd says nothing within 2 s" in said
    assert time.monotonic() - began < 10.0


def test_a_server_that_speaks_and_then_hangs_ends_in_time(sshd: Sshd) -> None:
    config(sshd, "ConnectTimeout 2\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        peers: list[socket.socket] = []

        def greet() -> None:
            peer, _ = server.accept()
            peer.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
            peers.append(peer)

        threading.Thread(target=greet, daemon=True).start()
        began = time.monotonic()
        assert "its sshd says nothing within 2 s" in refusal(sshd, port=server.getsockname()[1])
        assert time.monotonic() - began < 10.0


def test_a_killed_session_is_a_dropped_connection_and_no_end_of_the_program(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("cat")
    process.send(b"x")
    assert process.receive(10, 30.0) == b"x"
    sshd.signal_sessions(signal.SIGKILL)
    with pytest.raises(SshError, match="was dropped"):
        process.receive(10, 30.0)
    wait_until(lambda: not connection.is_alive, what="the end of the connection")
    with pytest.raises(SshError):
        process.send(b"x")
    with pytest.raises(SshError):
        connection.command("true")
    wait_until(lambda: not paramiko_threads(), what="the end of its threads")


@pytest.mark.slow
@pytest.mark.parametrize("doing", ["receive", "send", "command", "nothing"])
def test_a_peer_that_falls_silent_is_noticed_whatever_we_do(sshd: Sshd, doing: str) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("cat >/dev/null")
    sshd.signal_sessions(signal.SIGSTOP)
    began = time.monotonic()
    try:
        if doing == "nothing":
            wait_until(lambda: not connection.is_alive, 60.0, "the loss")
        else:
            with pytest.raises(SshError, match=r"given up|Timeout opening"):
                match doing:
                    case "receive":
                        process.receive(10, 300.0)
                    case "send":
                        process.send(b"x" * 100_000_000, stall_s=300.0)
                    case _:
                        connection.command("true")
        noticed_s = time.monotonic() - began
    finally:
        sshd.signal_sessions(signal.SIGCONT)
    print(f"silence noticed after {noticed_s:.1f} s by {doing}")
    assert ssh.SILENT_S - 2 <= noticed_s <= ssh.SILENT_S + 15
    connection.close()


@pytest.mark.slow
def test_a_silence_shorter_than_the_limit_costs_nothing(sshd: Sshd) -> None:
    connection = Connection.open(sshd.machine())
    process = connection.command("cat")
    sshd.signal_sessions(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError):
            process.receive(10, ssh.SILENT_S - 6)
    finally:
        sshd.signal_sessions(signal.SIGCONT)
    process.send(b"back")
    assert process.receive(10, 30.0) == b"back"
    assert connection.is_alive
    connection.close()


@pytest.mark.slow
def test_a_controller_that_was_stopped_itself_does_not_take_its_own_silence_for_the_hosts(sshd: Sshd) -> None:
    program = (
        "import sys; from infra.pool import Machine; from infra.ssh import Connection\n"
        f"c = Connection.open(Machine(name='m', address='127.0.0.1', port={sshd.port})); p = c.command('cat')\n"
        "print('open', flush=True); sys.stdin.readline(); p.send(b'x'); print(p.receive(9, 30.0), c.is_alive)\n"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert controller.stdout is not None
    assert controller.stdout.readline() == "open\n"
    controller.send_signal(signal.SIGSTOP)
    time.sleep(ssh.SILENT_S + 5)  # the fault itself: a laptop that sleeps
    controller.send_signal(signal.SIGCONT)
    out, errors = controller.communicate("go\n", timeout=60.0)
    assert (out, errors) == ("b'x' True\n", "")


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n"])
def test_a_process_that_was_refused_exits_at_once_and_its_threads_say_nothing(sshd: Sshd, greeting: bytes) -> None:
    config(sshd, "ConnectTimeout 30\n")
    program = (
        "from infra import ssh; from infra.pool import Machine\n"
        "ssh.AGAIN_S = 60.0\n"
        "try: ssh.Connection.open(Machine(name='m', address='127.0.0.1', port=%d))\n"
        "except ssh.SshError: print('refused')\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            peer, _ = server.accept()
            peer.sendall(greeting)
            peer.shutdown(socket.SHUT_WR)
            peer.recv(1 << 16)  # what the other says first
            peer.close()

        threading.Thread(target=hang_up, daemon=True).start()
        argv = [sys.executable, "-c", program % server.getsockname()[1]]
        began = time.monotonic()
        ended = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    assert (ended.stdout, ended.stderr) == ("refused\n", "")
    assert time.monotonic() - began < 25.0


def test_every_way_to_fail_leaves_no_session_behind(sshd: Sshd) -> None:
    sshd.authorized.write_text("")
    refusal(sshd)
    wait_until(lambda: not sshd.sessions(), what="the end of the session")
