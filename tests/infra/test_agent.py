"""Our hands on a machine, over a real sshd: what is put there is whole, what is started stays, what is asked ends."""

import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

import pytest

from infra import agent as agent_module
from infra.agent import Agent, RemoteError
from infra.remote.processes import MARK
from infra.ssh import Connection, Process, SshError
from tests.orchestrator.near import Session
from tests.processes import children, is_gone, session_of, wait_until
from tests.sshd import Sshd, make_sshd, sshd

__all__ = ["make_sshd", "sshd"]

# What a path may hold, and what a shell would make something else of.
AWKWARD = [
    "with space",
    'it\'s "quoted"',
    "$(touch ran) `x`;&|><*?!#%\\",
    "new\nline",
    "ünï-日本",
    "-rf",
    "~x",
    "\udc80",
]
READY = "echo ready; sleep 1000"
# Where this machine keeps its Pythons; a test may have another HOME.
PYTHONS = Path.home() / ".pyenv" / "versions"


class Host:
    """A machine with an agent on it, and its root as seen from here."""

    def __init__(self, sshd: Sshd) -> None:
        self.sshd = sshd
        self.connection = Connection.open(sshd.machine())
        self.root = sshd.home / "state"
        self.agent = Agent.start(self.connection, "~/state")

    def another(self) -> Agent:
        return Agent.start(self.connection, str(self.root))

    def agents(self) -> list[int]:
        """The pids of all agents on it."""
        serving = [pid for session in self.sshd.sessions() for pid in [session, *children(session, "sshd")]]
        return [pid for one in serving for pid in children(one, "python3 -I -c")]

    def record(self, name: str = "p") -> Path:
        return self.root / "run" / f"{name}.json"

    def leftovers(self) -> list[Path]:
        return list(self.root.rglob("*.tmp.*"))


@pytest.fixture
def host(sshd: Sshd) -> Iterator[Host]:
    host = Host(sshd)
    yield host
    host.connection.close()
    after = Host(sshd)
    after.agent.stop_process("p", 0.0)
    after.connection.close()


def tar_of(contents: Mapping[str, bytes], *members: tarfile.TarInfo) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            member.mode = 0o6777 if name.endswith(".sh") else 0o600
            archive.addfile(member, io.BytesIO(data))
        for member in members:
            archive.addfile(member)
    return packed.getvalue()


def start(agent: Agent, script: str = READY, name: str = "p", **info: str) -> int:
    """Starts a script that says when it is ready. Returns its pid."""
    return agent.start_process(name, ["sh", "-c", script], {}, info, "ready", 30.0).pid


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """What it returns or raises is in the list when the thread has ended."""
    came: list[object] = []

    def body() -> None:
        try:
            came.append(work())
        except (RemoteError, SshError) as e:
            came.append(e)

    thread = threading.Thread(target=body)
    thread.start()
    return thread, came


# -- beginning ---------------------------------------------------------------------------------------------------------


def test_an_agent_says_where_it_is_and_leaves_nothing_there(host: Host) -> None:
    facts = host.agent.look()
    assert (facts.home, facts.root, facts.address) == (str(host.sshd.home), str(host.root), "127.0.0.1")
    assert (facts.uid, facts.arch, facts.hostname) == (os.getuid(), os.uname().machine, os.uname().nodename)
    assert facts.boot == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert facts.memory_bytes > 1 << 30
    assert facts.free_disk_bytes > 1 << 20
    assert host.agent.process("p") is None
    assert not host.agent.exists("bundles")
    host.agent.close()
    wait_until(lambda: not host.agents(), what="its end")
    assert list(host.sshd.home.iterdir()) == []


def a_python(version: str) -> str:
    """A Python of this version; without one the test is skipped."""
    for candidate in [shutil.which(f"python{version}"), *PYTHONS.glob(f"{version}.*/bin/python3")]:
        if candidate is not None:
            asked = subprocess.run(
                [candidate, "-c", "import sys; print(sys.executable)"], capture_output=True, text=True
            )
            if asked.returncode == 0:
                return asked.stdout.strip()
    pytest.skip(f"NOT TESTED: a host with Python {version}: there is none here")


def with_python(make_sshd: Callable[..., Sshd], folder: Path, python: str) -> Sshd:
    """A host whose python3 is this one."""
    folder.mkdir()
    (folder / "python3").symlink_to(python)
    return make_sshd(f'env PATH={folder}:$PATH sh -c "$SSH_ORIGINAL_COMMAND"')


@pytest.mark.slow
@pytest.mark.parametrize("version", ["3.8", "3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
def test_an_agent_works_with_every_python_that_is_supported(
    make_sshd: Callable[..., Sshd], tmp_path: Path, version: str
) -> None:
    host = Host(with_python(make_sshd, tmp_path / "bin", a_python(version)))
    agent = host.agent
    assert agent.look().python.startswith(f"{version}.")
    assert agent.unpack("b", tar_of({"x/y": b"1"}))
    agent.put("f", b"2")
    assert (agent.read("b/x/y"), agent.read("f")) == (b"1", b"2")
    assert agent.run(["sh", "-c", "echo out; exit 3"]) == (3, "out\n", "")
    pid = start(agent)
    assert agent.stop_process("p", 5.0)
    assert is_gone(pid)
    assert len(agent.token("token")) == 64
    assert agent.prune([], 0, 0.0) == []
    process = agent.become(["cat"], {})
    process.send(b"x")
    assert process.receive(9, 30.0) == b"x"
    host.connection.close()


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_a_python_that_is_too_old_says_so(make_sshd: Callable[..., Sshd], tmp_path: Path, version: str) -> None:
    with pytest.raises(RemoteError, match=rf"python3 is {version} there, and 3\.8 or later is needed"):
        Host(with_python(make_sshd, tmp_path / "bin", a_python(version)))


def test_a_host_without_python_says_so(make_sshd: Callable[..., Sshd]) -> None:
    with pytest.raises(RemoteError, match="there is no python3 on the PATH of its login shell: install Python"):
        Host(make_sshd('PATH=/nowhere /bin/sh -c "$SSH_ORIGINAL_COMMAND"'))


def test_a_login_that_is_not_for_commands_says_what_it_said(make_sshd: Callable[..., Sshd]) -> None:
    with pytest.raises(RemoteError, match="This account is closed"):
        Host(make_sshd("echo This account is closed; exit 1"))


@pytest.mark.parametrize("shell", ["sh", "bash", "dash", "zsh", "ksh", "mksh", "tcsh", "csh", "fish"])
def test_an_agent_starts_from_every_login_shell(make_sshd: Callable[..., Sshd], shell: str) -> None:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"NOT TESTED: a host whose login shell is {shell}: there is none here")
    host = Host(make_sshd(f'{path} -c "$SSH_ORIGINAL_COMMAND"'))
    assert host.agent.run(["echo", "$HOME"]).stdout == "$HOME\n"
    host.connection.close()


def test_a_shell_that_chats_before_the_agent_speaks_is_not_listened_to(sshd: Sshd) -> None:
    (sshd.home / ".bashrc").write_text(
        'touch ~/chatted\nfor i in $(seq 5000); do echo "welcome $i"; done\nprintf \'{"said": 1, "size": null}\\n\'\n'
        "echo hello >&2\nprintf 'no end of line'\n"
    )
    host = Host(sshd)
    if not (sshd.home / "chatted").exists():
        pytest.skip("NOT TESTED: a chatty login shell: yours is not bash")
    assert host.agent.run(["echo", "x"]) == (0, "x\n", "")
    host.connection.close()


@pytest.mark.slow
def test_a_shell_that_never_ends_to_chat_is_given_up(make_sshd: Callable[..., Sshd]) -> None:
    with pytest.raises(RemoteError, match="python3 could not be started there: y y y"):
        Host(make_sshd("yes"))


def test_a_shell_that_waits_for_something_ends_in_time(
    make_sshd: Callable[..., Sshd], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_module, "START_S", 1.0)
    with pytest.raises(SshError, match="python3 did not start there within 1 s"):
        Host(make_sshd("sleep 1000"))


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", AWKWARD)
def test_a_path_is_taken_as_it_is(host: Host, name: str) -> None:
    host.agent.put(f"d/{name}/{name}", b"\0\xff\n")
    assert (host.root / "d" / name / name).read_bytes() == b"\0\xff\n"
    assert host.agent.read(f"d/{name}/{name}") == b"\0\xff\n"
    assert host.agent.exists(str(host.root / "d" / name))
    assert host.agent.unpack(f"b/{name}", tar_of({"x": b"1"}))
    assert (host.root / "b" / name / "x").read_bytes() == b"1"
    assert len(host.agent.token(f"t/{name}")) == 64
    host.agent.put(name, b"2")
    assert (host.root / name).read_bytes() == b"2"
    assert not list(host.sshd.home.rglob("ran"))


def test_what_is_put_has_its_mode_and_its_folders_are_the_owners_alone(host: Host) -> None:
    host.agent.put("a/b/f", b"1")
    host.agent.put("a/secret", b"2", 0o600)
    host.agent.put("a/b/f", b"3" * 100_000, 0o755)
    modes = {path: (host.root / path).stat().st_mode & 0o7777 for path in (".", "a", "a/b", "a/b/f", "a/secret")}
    assert modes == {".": 0o700, "a": 0o700, "a/b": 0o700, "a/b/f": 0o755, "a/secret": 0o600}
    assert (host.root / "a/b/f").read_bytes() == b"3" * 100_000
    assert host.agent.sent_bytes == 100_002


def test_what_the_system_refuses_is_told_with_its_number_and_path(host: Host) -> None:
    with pytest.raises(RemoteError, match=f"No such file or directory: {host.root}/none") as missing:
        host.agent.read("none")
    assert missing.value.errno == 2
    host.agent.put("f", b"x" * 11)
    with pytest.raises(RemoteError, match="f has more than 10 bytes"):
        host.agent.read("f", 10)
    with pytest.raises(RemoteError, match=r"Not a directory|File exists"):
        host.agent.put("f/below", b"")
    with pytest.raises(RemoteError, match="No such file or directory: no-such-program") as program:
        host.agent.run(["no-such-program"])
    assert program.value.errno == 2
    assert host.agent.exists("f")  # and the conversation goes on


def test_a_disk_that_takes_no_more_leaves_the_old_file_and_no_half(make_sshd: Callable[..., Sshd]) -> None:
    host = Host(make_sshd('ulimit -f 100; sh -c "$SSH_ORIGINAL_COMMAND"'))
    host.agent.put("f", b"old")
    with pytest.raises(RemoteError, match="File too large"):
        host.agent.put("f", b"x" * 1_000_000)
    with pytest.raises(RemoteError, match="File too large"):
        host.agent.unpack("b", tar_of({"small": b"1", "large": b"x" * 1_000_000}))
    assert host.agent.read("f") == b"old"
    assert not host.agent.exists("b")
    assert host.leftovers() == []
    host.connection.close()


def test_an_archive_becomes_plain_files_and_folders(host: Host) -> None:
    folder = tarfile.TarInfo("empty")
    folder.type = tarfile.DIRTYPE
    assert host.agent.unpack("b", tar_of({"core/a.py": b"1", "run.sh": b"2", "ü x/y": b"3"}, folder))
    found = {str(p.relative_to(host.root / "b")): p.stat().st_mode & 0o7777 for p in (host.root / "b").rglob("*")}
    assert found == {
        "core": 0o700, "core/a.py": 0o644, "run.sh": 0o755, "ü x": 0o700, "ü x/y": 0o644, "empty": 0o700
    }  # fmt: skip
    assert not host.agent.unpack("b", tar_of({"other": b"4"}))
    assert not host.agent.exists("b/other")
    assert host.leftovers() == []


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, to
    return member


@pytest.mark.parametrize(
    "archive",
    [
        tar_of({"ok": b"1", "../out": b"2"}),
        tar_of({"ok": b"1", "a/../../out": b"2"}),
        tar_of({"ok": b"1", "/tmp/hillclimb-out": b"2"}),
        tar_of({}, link("l", "/etc/passwd", tarfile.SYMTYPE)),
        tar_of({}, link("l", "..", tarfile.SYMTYPE)),
        tar_of({"ok": b"1"}, link("l", "ok", tarfile.LNKTYPE)),
        tar_of({}, link("fifo", "", tarfile.FIFOTYPE)),
        tar_of({}, link("device", "", tarfile.CHRTYPE)),
    ],
    ids=["parent", "hidden parent", "absolute", "link out", "link up", "hard link", "fifo", "device"],
)
def test_an_archive_that_reaches_outside_is_refused_whole(host: Host, archive: bytes) -> None:
    with pytest.raises(RemoteError, match="no plain file inside the archive: nothing of it was unpacked"):
        host.agent.unpack("d/b", archive)
    assert list((host.root / "d").iterdir()) == []
    assert not Path("/tmp/hillclimb-out").exists()


@pytest.mark.parametrize("archive", [b"", b"no archive", tar_of({"x": os.urandom(100_000)})[:50_000]])
def test_an_archive_that_is_not_whole_is_refused(host: Host, archive: bytes) -> None:
    with pytest.raises(RemoteError, match="no whole archive"):
        host.agent.unpack("d/b", archive)
    assert list((host.root / "d").iterdir()) == []


def test_an_archive_with_a_name_twice_is_refused(host: Host) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for _ in range(2):
            archive.addfile(tarfile.TarInfo("x"))
    with pytest.raises(RemoteError, match="File exists"):
        host.agent.unpack("d/b", packed.getvalue())
    assert list((host.root / "d").iterdir()) == []


@pytest.mark.slow
def test_an_agent_killed_while_it_unpacks_leaves_a_temporary_that_the_next_one_removes(host: Host) -> None:
    archive = tar_of({f"{number}/f": b"x" * 1000 for number in range(3000)})
    (pid,) = host.agents()
    thread, came = in_thread(lambda: host.agent.unpack("b", archive))
    wait_until(lambda: len(host.leftovers()) == 1 and len(list(host.leftovers()[0].iterdir())) > 10, what="a half")
    os.kill(pid, signal.SIGKILL)
    thread.join(60.0)
    assert isinstance(came[0], RemoteError)
    assert "the agent there has ended" in str(came[0])
    assert not host.agent.is_alive
    assert not (host.root / "b").exists()
    assert len(host.leftovers()) == 1
    assert host.another().unpack("b", archive)
    assert len(list((host.root / "b").iterdir())) == 3000
    assert host.leftovers() == []


@pytest.mark.slow
def test_a_connection_cut_while_a_file_is_on_its_way_leaves_the_old_one(host: Host) -> None:
    host.agent.put("f", b"old")
    thread, came = in_thread(lambda: host.agent.put("f", b"x" * 300_000_000))
    time.sleep(0.2)  # somewhere on the way; a transfer that was over would have put it
    host.sshd.signal_sessions(signal.SIGKILL)
    thread.join(60.0)
    assert isinstance(came[0], SshError)
    wait_until(lambda: not host.agents(), what="the agent's end")
    assert (host.root / "f").read_bytes() == b"old"
    assert host.leftovers() == []


@pytest.mark.slow
def test_two_agents_that_unpack_the_same_make_it_once(host: Host) -> None:
    archive = tar_of({f"{number}/f": b"x" for number in range(500)})
    agents = [host.agent, host.another(), host.another()]
    jobs = [in_thread(partial(agent.unpack, "b", archive)) for agent in agents]
    for thread, _ in jobs:
        thread.join(120.0)
    assert [came[0] for _, came in jobs].count(True) == 1
    assert [came[0] for _, came in jobs].count(False) == 2
    assert len(list((host.root / "b").iterdir())) == 500
    assert host.leftovers() == []


def test_a_token_is_one_for_all_who_ask_at_the_same_time_and_its_owners_alone(host: Host) -> None:
    agents = [host.agent, *(host.another() for _ in range(5))]
    jobs = [in_thread(partial(agent.token, "token")) for agent in agents]
    for thread, _ in jobs:
        thread.join(60.0)
    assert {came[0] for _, came in jobs} == {(host.root / "token").read_text()}
    assert (host.root / "token").stat().st_mode & 0o777 == 0o600
    assert host.leftovers() == []
    (host.root / "token").chmod(0o640)
    with pytest.raises(RemoteError, match="can be read by others: remove it"):
        host.agent.token("token")


# -- programs that are waited for --------------------------------------------------------------------------------------


def test_a_program_gets_its_arguments_and_environment_as_they_are(host: Host) -> None:
    awkward = [name for name in AWKWARD if "\udc80" not in name]
    ran = host.agent.run(["printf", "%s\\0", *awkward], {})
    assert ran == (0, "".join(f"{name}\0" for name in awkward), "")
    ran = host.agent.run(["sh", "-c", 'printf %s "$X"; echo bad >&2; exit 9'], {"X": "".join(awkward)})
    assert ran == (9, "".join(awkward), "bad\n")
    assert host.agent.run(["sh", "-c", "umask; cat; kill -9 $$"]) == (-9, "0022\n", "")


def test_a_program_that_says_much_ends_and_the_end_of_it_is_told(host: Host) -> None:
    ran = host.agent.run(["sh", "-c", "seq 1000000; seq 1000000 >&2"])
    assert ran.stdout.endswith("\n999999\n1000000\n")
    assert (len(ran.stdout), len(ran.stderr)) == (1 << 20, 1 << 20)


def test_a_program_is_over_when_it_ends_whatever_it_left_running(host: Host) -> None:
    ran = host.agent.run(["sh", "-c", "sleep 1000 & echo $!"])
    pid = int(ran.stdout)
    assert not is_gone(pid)
    os.kill(pid, signal.SIGKILL)


def test_a_program_that_takes_too_long_is_ended_with_all_it_started(host: Host) -> None:
    script = f"echo oops >&2; setsid sh -c 'trap \"\" TERM; echo $$ > {host.sshd.home}/inner; sleep 1000' & wait"
    with pytest.raises(RemoteError, match="sh did not end within 2 s: oops"):
        host.agent.run(["sh", "-c", script], timeout_s=2.0)
    assert is_gone(int((host.sshd.home / "inner").read_text()))
    assert host.agent.is_alive


def test_a_program_whose_reader_is_gone_is_ended(host: Host) -> None:
    place = host.sshd.home / "pid"
    thread, came = in_thread(
        lambda: host.agent.run(["sh", "-c", f"echo $$ > {place}.x; mv {place}.x {place}; sleep 1000"])
    )
    wait_until(place.exists, what="the program")
    host.sshd.signal_sessions(signal.SIGKILL)
    thread.join(60.0)
    assert isinstance(came[0], SshError)
    wait_until(lambda: is_gone(int(place.read_text())) and not host.agents(), what="the end of program and agent")


def test_an_answer_that_does_not_come_ends_the_conversation_and_nothing_else(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pid,) = host.agents()
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(agent_module, "ANSWER_S", 1.0)
    try:
        with pytest.raises(SshError, match="no answer to `free_port` within"):
            host.agent.free_port()
        assert not host.agent.is_alive
        with pytest.raises(SshError):
            host.agent.exists("x")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: is_gone(pid), what="its end")
    assert host.another().free_port() > 0


@pytest.mark.parametrize(
    ("answer", "ask"),
    [
        ("Last login: Sat Nov 21", Agent.free_port),
        ("\udc80", Agent.free_port),
        ("[" * 100_000, Agent.free_port),
        ("7", Agent.free_port),
        ("[]", Agent.free_port),
        ('"refused"', Agent.free_port),
        ('{"said": 7}', Agent.free_port),
        ('{"said": 7, "size": "7"}', Agent.free_port),
        ('{"said": {}, "size": null}', Agent.free_port),
        ('{"said": {}, "size": null}', Agent.look),
        ('{"said": {"returncode": 0}, "size": null}', lambda agent: agent.run(["true"])),
        ('{"said": {"pid": 7}, "size": null}', lambda agent: agent.process("p")),
        ('{"said": "7", "size": null}', lambda agent: agent.read("p")),
    ],
)
def test_an_answer_that_is_none_says_so_and_ends_the_conversation(
    answer: str, ask: Callable[[Agent], object], tmp_path: Path
) -> None:
    (tmp_path / "answer").write_bytes(answer.encode(errors="surrogateescape"))
    session = Session("sh", "-c", f"read asked; cat {tmp_path}/answer; echo; cat")
    try:
        with pytest.raises(RemoteError, match=r"h: what it says to `[a-z_]+` is no answer"):
            ask(Agent("h", session))
        assert session.is_closed
    finally:
        session.end()


def test_a_free_port_can_be_taken(host: Host) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", host.agent.free_port()))


def test_a_session_becomes_a_program(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    receive = Process.receive

    def late(process: Process, size: int, timeout_s: float) -> bytes:
        """So late that the program has spoken when the answer is read: nothing of it may be lost."""
        time.sleep(0.3)
        return receive(process, size, timeout_s)

    monkeypatch.setattr(Process, "receive", late)
    with pytest.raises(RemoteError, match="No such file or directory: no-such-program"):
        host.agent.become(["no-such-program"], {})
    assert host.agent.is_alive
    process = host.agent.become(
        ["sh", "-c", 'umask; printf "%s\n" "$X" "$1"; echo err >&2; cat; exit 5', "sh", "a b"], {"X": "it's"}
    )
    assert not host.agent.is_alive
    process.send(b"in\n")
    process.close_input()
    said = b""
    while chunk := process.receive(100, 30.0):
        said += chunk
    assert (said, process.exit_status, process.stderr) == (b"0022\nit's\na b\nin\n", 5, "err")


# -- what is started and stays -----------------------------------------------------------------------------------------


def test_a_process_survives_who_started_it_and_is_found_again(host: Host) -> None:
    before = time.time()
    started = host.agent.start_process(
        "p", ["sh", "-c", READY], {"X": "1"}, {"address": "10.0.0.1:6379"}, "ready", 30.0
    )
    host.connection.close()
    wait_until(lambda: not host.sshd.sessions(), what="the end of the session")
    found = Host(host.sshd).agent.process("p")
    assert found == started
    assert (started.argv, started.info) == (("sh", "-c", READY), {"address": "10.0.0.1:6379"})
    assert before - 1 <= started.since <= time.time() + 1
    assert not is_gone(started.pid)
    assert b"X=1" in Path(f"/proc/{started.pid}/environ").read_bytes().split(b"\0")
    assert session_of(started.pid)
    assert os.readlink(f"/proc/{started.pid}/fd/0") == "/dev/null"  # noqa: PTH115
    assert host.record().stat().st_mode & 0o777 == 0o600
    assert host.record("p").with_suffix(".log").read_text() == "ready\n"
    assert (host.root / "run").stat().st_mode & 0o777 == 0o700


def test_a_process_that_lives_is_not_started_again(host: Host) -> None:
    pid = start(host.agent, which="first")
    again = host.another().start_process("p", ["sh", "-c", "echo other"], {}, {"which": "second"}, "ready", 30.0)
    assert (again.pid, again.info) == (pid, {"which": "first"})


@pytest.mark.slow
def test_agents_that_start_the_same_at_once_start_one(host: Host) -> None:
    script = f"echo x >> {host.sshd.home}/starts; sleep 1; {READY}"
    agents = [host.agent, *(host.another() for _ in range(3))]
    jobs = [in_thread(partial(start, agent, script)) for agent in agents]
    for thread, _ in jobs:
        thread.join(120.0)
    assert len({came[0] for _, came in jobs}) == 1
    assert isinstance(jobs[0][1][0], int), jobs
    assert (host.sshd.home / "starts").read_text() == "x\n"


def test_an_agent_killed_while_it_starts_something_leaves_no_process_without_a_record(host: Host) -> None:
    script = f"while [ ! -e {host.sshd.home}/go ]; do sleep 0.05; done; {READY}"
    (pid,) = host.agents()
    thread, came = in_thread(lambda: start(host.agent, script))
    wait_until(host.record().exists, what="the record")
    os.kill(pid, signal.SIGKILL)
    thread.join(60.0)
    assert isinstance(came[0], RemoteError)
    started = json.loads(host.record().read_text())["pid"]
    assert not is_gone(started)
    # the next one waits for what is still on its way
    other = host.another()
    thread, came = in_thread(lambda: start(other, "echo another"))
    (host.sshd.home / "go").touch()
    thread.join(60.0)
    assert came == [started]


def test_a_process_that_ends_at_once_says_what_it_said(host: Host) -> None:
    with pytest.raises(RemoteError, match=r"p ended; the end of .*/run/p\.log: .*9999 \| 10000 \| no more memory$"):
        start(host.agent, "seq 10000; echo no more memory >&2; exit 1")
    assert host.agent.process("p") is None
    with pytest.raises(RemoteError, match=r"No such file or directory: no-such-program") as missing:
        host.agent.start_process("p", ["no-such-program"], {}, {}, "ready", 30.0)
    assert missing.value.errno == 2
    assert host.agent.process("p") is None


def test_a_process_that_says_it_is_ready_and_ends_was_ready(host: Host) -> None:
    assert start(host.agent, "echo ready") > 0
    assert host.agent.process("p") is None


def test_a_process_that_is_not_ready_in_time_is_ended(host: Host) -> None:
    with pytest.raises(RemoteError, match=r"p was not ready within 1 s; the end of .*: starting"):
        host.agent.start_process("p", ["sh", "-c", "echo starting; sleep 1000"], {}, {}, "ready", 1.0)
    assert is_gone(json.loads(host.record().read_text())["pid"])


def test_a_dead_process_is_no_zombie_and_counts_as_none(host: Host) -> None:
    pid = start(host.agent)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="its being reaped")
    assert host.agent.process("p") is None
    assert start(host.agent) != pid


@pytest.mark.parametrize("field", ["start_time", "boot"])
def test_a_record_of_another_time_is_nobodys(host: Host, field: str) -> None:
    """The pid is another's now: it is neither taken for ours nor ended."""
    innocent = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    start(host.agent)
    host.agent.stop_process("p", 5.0)
    start_time = int(Path(f"/proc/{innocent.pid}/stat").read_text().rpartition(")")[2].split()[19])
    record = {
        "pid": innocent.pid, "start_time": start_time, "boot": host.agent.look().boot, "mark": "none",
        "argv": ["x"], "since": 0.0, "info": {},
    }  # fmt: skip
    host.record().write_text(json.dumps(record))
    assert host.agent.process("p") is not None  # were it ours
    host.record().write_text(json.dumps(record | {field: start_time - 1 if field == "start_time" else "another"}))
    assert host.agent.process("p") is None
    pid = start(host.agent)
    assert pid != innocent.pid
    host.record().write_text(json.dumps(record | {field: start_time - 1 if field == "start_time" else "another"}))
    assert not host.agent.stop_process("p", 5.0)
    assert innocent.poll() is None
    innocent.kill()
    innocent.wait()
    os.kill(pid, signal.SIGKILL)


FAMILY = """
trap 'exit 0' TERM
env -i setsid sh -c "setsid sleep 1009 & echo \\$! > '$UNMARKED'; wait" &
sleep 1001 &
setsid sleep 1002 &
setsid sh -c 'sleep 1003 & sleep 1003' &
sh -c 'setsid sleep 1004 & exit' &
(trap '' TERM; sleep 1005; sleep 1006) &
echo ready; while :; do wait; done
"""


def bearing(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environ.split(b"\0"):
                found.append(int(entry.name))
    return found


def test_a_process_is_stopped_with_all_it_started(host: Host) -> None:
    unmarked = host.sshd.home / "unmarked"
    pid = start(host.agent, f"UNMARKED={unmarked}\n{FAMILY}")
    mark = json.loads(host.record().read_text())["mark"]
    wait_until(lambda: len(bearing(mark)) >= 8 and unmarked.exists() and unmarked.read_text(), what="the family")
    family = [*bearing(mark), int(unmarked.read_text())]
    assert pid in family
    assert [member for member in family if is_gone(member)] == []
    assert host.another().stop_process("p", 2.0)
    assert [member for member in family if not is_gone(member)] == []
    assert bearing(mark) == []
    assert not host.record().exists()
    assert not host.agent.stop_process("p", 2.0)


def test_a_process_gets_its_grace_to_end_by_itself(host: Host) -> None:
    bye = host.sshd.home / "bye"
    start(host.agent, f"trap 'sleep 1; echo bye > {bye}; exit 0' TERM; echo ready; while :; do sleep 0.1; done")
    assert host.agent.stop_process("p", 30.0)
    assert bye.read_text() == "bye\n"


def test_what_a_killed_process_left_is_ended_before_the_next_one_starts(host: Host) -> None:
    pid = start(host.agent, f"sleep 1007 & setsid sleep 1008 & {READY}")
    mark = json.loads(host.record().read_text())["mark"]
    wait_until(lambda: len(bearing(mark)) == 4, what="its children")
    left = [member for member in bearing(mark) if member != pid]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: is_gone(pid), what="its end")
    assert [member for member in left if is_gone(member)] == []
    assert start(host.agent) != pid
    assert [member for member in left if not is_gone(member)] == []


def test_stopping_what_was_never_started_says_so(host: Host) -> None:
    assert not host.agent.stop_process("p", 1.0)
    with pytest.raises(RemoteError, match="is no name for a process"):
        host.agent.stop_process("../p", 1.0)


# -- what is not needed any more ---------------------------------------------------------------------------------------


def bundle(host: Host, name: str, env: str, age_s: float) -> None:
    for path in (f"bundles/{name}/core/x.py", f"envs/{env}/bin/python"):
        host.agent.put(path, b"")
    host.agent.put(f"bundles/{name}.python", f"{host.root}/envs/{env}/bin/python\n".encode())
    then = time.time() - age_s
    for place in (f"bundles/{name}", f"bundles/{name}.python", f"envs/{env}"):
        os.utime(host.root / place, (then, then))


def test_pruning_keeps_what_was_used_lately_however_old_it_is(host: Host) -> None:
    for name in ("first", "second"):
        bundle(host, name, f"e-{name}", 86400.0)
        (host.root / "bundles" / f"{name}.python").touch()
    assert host.agent.prune([], 1) == []
    os.utime(host.root / "bundles" / "first.python", (1, 1))
    gone = ["bundles/first.python", "bundles/first", "envs/e-first"]
    assert host.agent.prune([], 1) == [str(host.root / path) for path in gone]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_pruning_keeps_what_is_named_new_young_or_in_use(host: Host) -> None:
    day = 86400.0
    bundle(host, "old", "e-old", 9 * day)
    bundle(host, "kept", "e-kept", 8 * day)
    bundle(host, "used", "e-used", 7 * day)
    bundle(host, "older", "e-shared", 6 * day)
    bundle(host, "newest", "e-shared", 5 * day)
    (host.root / "bundles" / "young").mkdir()
    (host.root / "bundles" / "half.tmp.1.1").mkdir()
    (host.root / "envs" / "e-made.tmp").mkdir()
    for place in ("bundles/half.tmp.1.1", "envs/e-made.tmp"):
        os.utime(host.root / place, (0, 0))
    user = subprocess.Popen(["sleep", "1000"], env={"PYTHONPATH": str(host.root / "bundles" / "used")})
    try:
        removed = host.agent.prune(["kept"], 1)
        assert names(host.root / "bundles") == [
            "kept",
            "kept.python",
            "newest",
            "newest.python",
            "used",
            "used.python",
            "young",
        ]
        assert names(host.root / "envs") == ["e-kept", "e-shared", "e-used"]
        gone = ["bundles/half.tmp.1.1", "bundles/old", "bundles/old.python", "bundles/older", "bundles/older.python"]
        gone += ["envs/e-made.tmp", "envs/e-old"]
        assert sorted(removed) == [str(host.root / path) for path in gone]
    finally:
        user.kill()
        user.wait()
    assert set(host.agent.prune(["kept"], 1, 0.0)) == {
        str(host.root / path) for path in ("bundles/used", "bundles/used.python", "envs/e-used", "bundles/young")
    }


only_root_gives_away = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")


@pytest.mark.parametrize(("owner", "mode"), [(-1, 0o770), pytest.param(4711, 0o700, marks=only_root_gives_away)])
def test_root_where_others_could_put_code_is_refused(host: Host, owner: int, mode: int) -> None:
    host.root.mkdir(mode=0o700, exist_ok=True)
    host.root.chmod(mode)
    os.chown(host.root, owner, -1)
    with pytest.raises(RemoteError, match="is another user's, or others may write there"):
        host.agent.look()
    os.chown(host.root, os.getuid(), -1)
    host.root.chmod(0o700)
    assert host.agent.look().root == str(host.root)
