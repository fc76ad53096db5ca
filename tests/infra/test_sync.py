import json
import os
import platform
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from core.code import code_hash
from core.job import SelftestJob
from core.mark import mark_of
from core.visit import BundleRef, Slot, Visit
from infra import sync
from infra.agent import Agent
from infra.bundle import Bundle, bundle_of
from infra.environment import environment_of
from infra.pool import PoolError
from infra.remote import files
from infra.ssh import Connection
from infra.sync import place
from tests.infra.checkout import checkout, commit, write
from tests.processes import children, is_gone, wait_until
from tests.sshd import Sshd, make_sshd, sshd
from tests.wheelhouse import Index, wheels, write_wheel
from workers.host.code import Codes

__all__ = ["make_sshd", "sshd"]

pytestmark = pytest.mark.slow

LITTLE = {
    "pyproject.toml": '[project]\nname = "little"\ndependencies = ["jax", "ray>=2"]\n',
    "constraints.txt": "jax==1.0\nray==2.0\n",
    "workers/actor.py": "import ray\n",
}


class Host(NamedTuple):
    """A host with nothing but sshd and python3, and a package index it can reach."""

    sshd: Sshd
    root: Path
    index: Index
    said: list[str]

    @contextmanager
    def agent(self) -> Iterator[Agent]:
        connection = Connection.open(self.sshd.machine())
        try:
            yield Agent.start(connection, str(self.root))
        finally:
            connection.close()

    def place(self, bundle: Bundle, python: str = "", index: str | None = None) -> str:
        with self.agent() as agent:
            url = self.index.url if index is None else index
            return place(agent, bundle, python=python, index=url, say=self.said.append)

    def agents(self) -> list[int]:
        """The processes there that serve an agent."""
        sessions = self.sshd.sessions()
        logins = [*sessions, *(pid for session in sessions for pid in children(session, "sshd"))]
        return [pid for login in logins for pid in children(login, "python3")]

    def holds(self, folder: str) -> set[str]:
        """What lies there."""
        return {path.name for path in (self.root / folder).glob("*")}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    root = checkout(tmp_path / "code")
    commit(write(root, LITTLE))
    return root


@pytest.fixture
def bare(sshd: Sshd, tmp_path: Path) -> Iterator[Host]:
    packages = tmp_path / "packages"
    packages.mkdir()
    module = '__version__ = "{0}"\ndef main():\n    print("I am {1} {0}")\n'
    for name, version in (("jax", "1.0"), ("jax", "1.1"), ("ray", "2.0")):
        write_wheel(packages, name, version, {f"{name}/__init__.py": module.format(version, name)})
    with Index(packages) as index:
        yield Host(sshd, tmp_path / "root", index, [])


@pytest.fixture
def host(bare: Host) -> Host:
    """One that uv was sent to before, which takes seconds."""
    name, archive = sync._own_uv()
    files.unpack(bare.root / "bin" / name, archive)
    return bare


def fetched(host: Host) -> list[str]:
    return sorted(name.rpartition("-py3")[0] for name in host.index.fetched)


def test_place_on_a_bare_host_makes_all_it_needs(bare: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    interpreter = bare.place(bundle)
    lock = environment_of(bundle, platform.machine()).id
    assert interpreter == f"{bare.root}/envs/{lock}/bin/python"
    assert (bare.root / "bundles" / f"{bundle.id}.python").read_text() == interpreter
    assert bare.holds("bundles") == {bundle.id, f"{bundle.id}.python"}
    assert bare.holds("envs") == {lock}
    assert bare.holds("") == {"bin", "bundles", "envs", "envs.lock"}
    assert code_hash(bare.root / "bundles" / bundle.id) == code_hash(code)
    assert fetched(bare) == ["jax-1.0", "ray-2.0"]
    assert any("Ray 2.0, JAX 1.0" in line for line in bare.said)
    # scripts find their interpreter though the environment was made under another name
    ran = subprocess.run([Path(interpreter).with_name("ray")], capture_output=True, text=True, check=True)
    assert ran.stdout == "I am ray 2.0\n"
    # and nothing of it lies where a person keeps things of their own
    assert not list(bare.sshd.home.rglob("*"))


def test_place_of_what_is_there_sends_nothing_and_marks_it_as_used(host: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    interpreter = host.place(bundle)
    mark = host.root / "bundles" / f"{bundle.id}.python"
    os.utime(mark, (1, 1))
    before = {path: path.lstat().st_mtime_ns for path in host.root.rglob("*") if "__pycache__" not in path.parts}
    host.index.fetched.clear()
    host.said.clear()
    with host.agent() as agent:
        assert place(agent, bundle, python="", index=host.index.url, say=host.said.append) == interpreter
        assert agent.sent_bytes == 0
    assert (host.index.fetched, host.said) == ([], [])
    after = {path: path.lstat().st_mtime_ns for path in host.root.rglob("*") if "__pycache__" not in path.parts}
    assert after.keys() == before.keys()
    assert [path for path in before if after[path] != before[path]] == [mark]


def test_place_of_changed_code_sends_the_code_alone(host: Host, code: Path) -> None:
    host.place(bundle_of("", code))
    host.index.fetched.clear()
    changed = bundle_of("", write(code, {"core/a.py": "A = 2\n"}))
    with host.agent() as agent:
        interpreter = place(agent, changed, python="", index=host.index.url, say=host.said.append)
        assert agent.sent_bytes == len(changed.archive) + len(interpreter)
    assert host.index.fetched == []
    assert len(host.holds("envs")) == 1


def test_place_of_code_with_other_constraints_makes_another_environment(host: Host, code: Path) -> None:
    first = host.place(bundle_of("", code))
    write(code, {"constraints.txt": "jax==1.1\nray==2.0\n"})
    with host.agent() as agent:
        second = place(agent, bundle_of("", code), python="", index=host.index.url, say=host.said.append)
        # without uv, which has 18 MB
        assert 0 < agent.sent_bytes < 100_000
    version = "import jax; print(jax.__version__)"
    for interpreter, expected in ((first, "1.0\n"), (second, "1.1\n")):
        ran = subprocess.run([interpreter, "-c", version], capture_output=True, text=True, check=True)
        assert ran.stdout == expected
    assert first != second


CONTROLLER = """
import json, sys
from pathlib import Path
from infra.agent import Agent
from infra.bundle import bundle_of
from infra.pool import Machine
from infra.ssh import Connection
from infra.sync import place
machine, root, code, index = sys.argv[1:]
agent = Agent.start(Connection.open(Machine.model_validate_json(machine)), root)
place(agent, bundle_of("", Path(code)), python="", index=index, say=print)
"""


def commands() -> dict[int, str]:
    """Of every process, what it was started as."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and not is_gone(int(entry.name)):
            try:
                found[int(entry.name)] = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            except OSError:
                continue
    return found


def pids(*texts: str) -> list[int]:
    return [pid for pid, command in commands().items() if all(text in command for text in texts)]


@pytest.mark.parametrize("victim", ["controller", "agent", "maker", "uv"])
def test_place_killed_while_an_environment_is_made_leaves_nothing_half_used(
    host: Host, code: Path, victim: str
) -> None:
    bundle = bundle_of("", code)
    asked, go_on = threading.Event(), threading.Event()
    host.index.before = lambda _: (asked.set(), go_on.wait())
    controller = subprocess.Popen(
        [sys.executable, "-c", CONTROLLER, host.sshd.machine().model_dump_json(), host.root, code, host.index.url],
        cwd=Path(__file__).parents[2],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert asked.wait(60.0)
        of_host = str(host.root)
        [maker], [uv] = pids("making", of_host), pids("/uv pip install", of_host)
        agent = int(Path(f"/proc/{maker}/stat").read_text().rpartition(")")[2].split()[1])
        found = {"controller": controller.pid, "agent": agent, "maker": maker, "uv": uv}
        os.kill(found[victim], signal.SIGKILL)
        said = controller.communicate(timeout=60.0)[1]
        assert controller.returncode != 0, said
        assert not any(len(name) == 64 for name in host.holds("envs"))
        assert host.holds("bundles") == set()
        if victim == "uv":
            assert "its environment cannot be made (uv ended with status -9)" in said
            assert host.holds("envs") == set()
        if victim == "controller":
            # what it had in hand there ends with it
            wait_until(lambda: is_gone(maker) and is_gone(uv), what="the end of uv")
    finally:
        go_on.set()
        controller.kill()
        controller.wait()
    lock = environment_of(bundle, platform.machine()).id
    assert host.place(bundle) == f"{host.root}/envs/{lock}/bin/python"
    assert host.holds("envs") == {lock}
    assert host.holds("bundles") == {bundle.id, f"{bundle.id}.python"}
    wait_until(lambda: not pids("making", of_host), what="the end of the makers")


def test_place_waits_for_a_uv_that_outlived_its_controller(host: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    of_host = str(host.root)
    asked, go_on = threading.Event(), threading.Event()
    host.index.before = lambda _: (asked.set(), go_on.wait())
    with ThreadPoolExecutor(2) as controllers:
        first = controllers.submit(host.place, bundle)
        assert asked.wait(60.0)
        [agent], [maker], [uv] = host.agents(), pids("making", of_host), pids("/uv pip install", of_host)
        for pid in (agent, maker):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(PoolError):
            first.result(60.0)
        second = controllers.submit(host.place, bundle)
        wait_until(lambda: any(waits_for_a_lock(pid) for pid in pids("making", of_host)), what="a second maker")
        assert pids("/uv pip install", of_host) == [uv]
        go_on.set()
        assert second.result(60.0)
    assert is_gone(uv)
    assert host.holds("envs") == {environment_of(bundle, platform.machine()).id}


def waits_for_a_lock(pid: int) -> bool:
    return any("->" in line and f" {pid} " in line for line in Path("/proc/locks").read_text().splitlines())


class Killed(Exception):
    """A controller that is no more, as far as a host can tell."""


@pytest.mark.parametrize("step", ["uv: ", "being made", "made in", "code ", "Python 3"])
def test_place_ended_between_two_steps_is_finished_by_the_next(bare: Host, code: Path, step: str) -> None:
    bundle = bundle_of("", code)

    def end(line: str) -> None:
        if step in line:
            raise Killed

    with bare.agent() as agent, pytest.raises(Killed):
        place(agent, bundle, python="", index=bare.index.url, say=end)
    assert not (bare.root / "bundles" / f"{bundle.id}.python").exists()
    was_there = bare.holds("bin"), bare.holds("envs"), bare.holds("bundles")
    lock = environment_of(bundle, platform.machine()).id
    bare.said.clear()
    assert bare.place(bundle) == f"{bare.root}/envs/{lock}/bin/python"
    assert bare.holds("bundles") == {bundle.id, f"{bundle.id}.python"}
    # what was complete is not sent or made again
    again = [any(word in line for line in bare.said) for word in ("uv: ", "made in", "code ")]
    assert again == [not there for there in was_there]


def test_place_ended_while_uv_is_sent_leaves_no_part_of_it(bare: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    with ThreadPoolExecutor(1) as controller, bare.agent() as agent:
        [pid] = bare.agents()
        placed = controller.submit(place, agent, bundle, python="", index=bare.index.url, say=bare.said.append)
        wait_until(lambda: read_bytes(pid) > 2**20, what="the first MiB of uv")
        assert bare.holds("bin") == set()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(PoolError):
            placed.result(60.0)
    assert bare.holds("bin") == set()
    assert bare.place(bundle)
    assert len(bare.holds("bin")) == 1


def read_bytes(pid: int) -> int:
    """What a process has read so far."""
    return int(Path(f"/proc/{pid}/io").read_text().split()[1])


def test_place_by_two_controllers_at_once_makes_one_environment(host: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    go_on = threading.Event()
    host.index.before = lambda _: go_on.wait()
    with ThreadPoolExecutor(2) as controllers:
        placed = [controllers.submit(host.place, bundle) for _ in range(2)]
        wait_until(lambda: len(pids("making", str(host.root))) == 2, what="two who make one environment")
        assert len(pids("/uv pip install", str(host.root))) <= 1
        go_on.set()
        assert placed[0].result(60.0) == placed[1].result(60.0)
    assert fetched(host) == ["jax-1.0", "ray-2.0"]
    assert len(host.holds("envs")) == 1
    assert host.holds("bundles") == {bundle.id, f"{bundle.id}.python"}


def test_place_where_the_interpreter_has_gone_makes_the_environment_again(host: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    interpreter = Path(host.place(bundle))
    interpreter.unlink()
    interpreter.symlink_to("/usr/bin/python3.0")
    assert host.place(bundle) == str(interpreter)
    subprocess.run([interpreter, "-c", "import jax"], check=True)


def test_place_of_packages_the_index_lacks_says_what_to_do(host: Host, code: Path) -> None:
    write(code, {"constraints.txt": "jax==9\n"})
    with pytest.raises(PoolError) as refused:
        host.place(bundle_of("", code))
    assert "jax" in str(refused.value)
    assert str(refused.value).endswith("name an interpreter there, with hillclimb's dependencies, as `python`")
    assert "\n" not in str(refused.value)
    assert (host.holds("envs"), host.holds("bundles")) == (set(), set())


def test_place_with_a_password_for_the_index_tells_it_to_nobody(host: Host, code: Path) -> None:
    seen: list[str] = []
    secret = "s3cr%40t"
    login = "ann:s3cr@t"
    with Index(host.index.directory, login=login) as index:
        index.before = lambda _: seen.extend(commands().values())
        url = index.url.replace("//", f"//ann:{secret}@")
        host.place(bundle_of("", code), index=url)
        assert len(index.fetched) == 2
    assert any("/uv pip install" in command for command in seen)
    with pytest.raises(PoolError) as refused:
        # the index is no more
        host.place(bundle_of("", write(code, {"constraints.txt": "jax==1.1\n"})), index=url)
    assert "127.0.0.1" in str(refused.value)
    written = [path.read_text(errors="replace") for path in host.root.rglob("*") if path.is_file()]
    for text in (*seen, *host.said, *written, str(refused.value)):
        assert "s3cr" not in text


def test_place_for_an_interpreter_of_the_host_uses_it(bare: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    assert bare.place(bundle, sys.executable) == sys.executable
    assert (bare.root / "bundles" / mark_of(bundle.id, sys.executable)).read_text() == sys.executable
    assert bare.holds("") == {"bundles"}
    assert any(f"Python {platform.python_version()}, Ray 2." in line for line in bare.said)
    with bare.agent() as agent:
        place(agent, bundle, python=sys.executable, index="", say=bare.said.append)
        assert agent.sent_bytes == 0


def test_place_for_pool_files_with_two_interpreters_leaves_each_its_own(host: Host, code: Path) -> None:
    bundle = bundle_of("", code)
    host.place(bundle, sys.executable)
    interpreter = host.place(bundle)
    ref = BundleRef(id=bundle.id, code=bundle.code)
    visit = Visit(visit=1, slots=(Slot(slot=0, job=SelftestJob()),), iters=1, warmup=0, bundles={"": ref})
    for setting, wanted in (("", interpreter), (sys.executable, sys.executable)):
        codes = Codes(host.root / "cache", host.root / "bundles", python=setting)
        assert codes.of(visit)[""].command[0] == wanted
    assert interpreter != sys.executable


def test_place_makes_no_environment_where_a_shell_would_read_its_path_as_something_else(bare: Host, code: Path) -> None:
    odd = bare._replace(root=bare.root.with_name("a root's path"))
    with pytest.raises(PoolError, match=r"Ray would hand .*/a root's path/envs/.* to a shell"):
        odd.place(bundle_of("", code))
    assert not odd.holds("envs")
    assert not odd.holds("bundles")


@pytest.mark.parametrize(
    ("python", "why"),
    [
        ("/nowhere/bin/python", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/", "Permission denied"),
        ("/bin/false", "status 1"),
        ("/bin/true", "status 0"),
        ("/usr/bin/python3", "No module named 'jax'"),
    ],
)
def test_place_for_an_interpreter_that_will_not_do_is_refused(host: Host, code: Path, python: str, why: str) -> None:
    with pytest.raises(PoolError) as refused:
        host.place(bundle_of("", code), python)
    assert f"{python} cannot run hillclimb there" in str(refused.value)
    assert why in str(refused.value)
    assert str(refused.value).endswith("or leave `python` out and an environment is made")
    assert not any(name.endswith(".python") for name in host.holds("bundles"))


@pytest.mark.parametrize("module", ["workers/actor.py", "workers/runner.py", "orchestrator/relay.py"])
def test_place_for_an_interpreter_that_lacks_a_dependency_names_it(host: Host, code: Path, module: str) -> None:
    bundle = bundle_of("", write(code, {module: "import ray\nimport rare\n"}))
    with pytest.raises(PoolError, match=r"cannot run hillclimb there \(ModuleNotFoundError: No module named 'rare'\)"):
        host.place(bundle, sys.executable)
    assert host.holds("bundles") == {bundle.id}


def test_place_yields_to_what_is_measured_there(host: Host, code: Path, tmp_path: Path) -> None:
    seen = tmp_path / "nice"
    tells = f"import os\nopen({str(seen)!r}, 'w').write(str(os.nice(0)))\n"
    host.place(bundle_of("", write(code, {"workers/actor.py": tells})))
    assert seen.read_text() == "19"


def age(host: Host) -> None:
    """Everything there was placed two hours ago."""
    for folder in ("bundles", "envs"):
        for path in (host.root / folder).iterdir():
            os.utime(path, (path.stat().st_mtime - 7200.0,) * 2)


def test_place_removes_what_nobody_uses(host: Host, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "NEWEST", 1)
    bundles = []
    for number in range(3):
        write(code, {"constraints.txt": f"jax==1.0\nray==2.0\n# {number}\n"})
        bundles.append(bundle_of("", code))
    unused, used, last = bundles
    host.place(unused)
    interpreter = host.place(used)
    # of an attempt at something that nobody wanted again
    (host.root / "envs" / f"{'0' * 64}.tmp" / "venv").mkdir(parents=True)
    age(host)
    running = subprocess.Popen(
        [interpreter, "-c", "input()"], stdin=subprocess.PIPE, env={"PYTHONPATH": str(host.root / "bundles" / used.id)}
    )
    try:
        host.place(last)
        locks = {environment_of(bundle, platform.machine()).id for bundle in (used, last)}
        assert len(locks) == 2
        assert host.holds("envs") == locks
        assert host.holds("bundles") == {name for b in (used, last) for name in (b.id, f"{b.id}.python")}
    finally:
        running.kill()
        running.wait()


def test_place_keeps_the_newest_with_their_environments(host: Host, code: Path) -> None:
    placed = []
    for number in range(3):
        write(code, {"core/a.py": f"A = {number}\n"})
        placed.append(bundle_of("", code))
        host.place(placed[-1])
        age(host)
    assert host.holds("bundles") == {name for b in placed for name in (b.id, f"{b.id}.python")}


@pytest.mark.parametrize("local", ["Darwin arm64", "Linux aarch64"])
def test_place_from_a_machine_whose_uv_does_not_run_there_takes_the_hosts_own(
    bare: Host, code: Path, monkeypatch: pytest.MonkeyPatch, local: str
) -> None:
    import uv

    system, _, machine = local.partition(" ")
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    bundle = bundle_of("", code)
    with pytest.raises(
        PoolError, match=rf"the uv of this machine \({system}, {machine}\) does not run there .*: install"
    ):
        bare.place(bundle)
    assert bare.holds("envs") == set()
    own = bare.sshd.home / ".local/bin/uv"
    own.parent.mkdir(parents=True)
    own.symlink_to(uv.find_uv_bin())
    assert bare.place(bundle)
    assert bare.holds("bin") == set()


def test_environment_of_this_project_runs_it_without_it_installed(sshd: Sshd, tmp_path: Path) -> None:
    """From the real packages: what a host runs is there, hillclimb among what is installed is not."""
    bundle = bundle_of("")
    with Index(wheels()) as index:
        host = Host(sshd, tmp_path / "root", index, [])
        interpreter = host.place(bundle)
    environment = {
        "PYTHONPATH": str(host.root / "bundles" / bundle.id),
        "JAX_PLATFORMS": "cpu",
        "PATH": "/usr/bin:/bin",
    }

    def run(*argv: str) -> str:
        ran = subprocess.run(argv, env=environment, cwd="/", capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert "Measure the slots of one visit" in run(interpreter, "-P", "-m", "workers.runner", "--help")
    run(interpreter, "-P", "-c", "import orchestrator.fleet, workers.actor, workers.bench.bench")
    assert run(interpreter, "-P", "-c", "import core.code; print(core.code.code_hash())").strip() == bundle.code
    listed = "import json, importlib.metadata as m; print(json.dumps([d.name for d in m.distributions()]))"
    names = json.loads(run(interpreter, "-P", "-c", listed))
    assert {"jax", "jaxlib", "ray", "pydantic"} <= set(names)
    assert "hillclimb" not in names
    assert run(str(Path(interpreter).with_name("ray")), "--version").startswith("ray, version ")
