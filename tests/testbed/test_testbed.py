"""The testbed is what it says: its machines are apart, its faults happen, and nothing of it stays."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.testbed.accounts import ANN
from tests.testbed.machine import Machine
from tests.testbed.testbed import Person, Testbed

pytestmark = pytest.mark.slow

# What OpenSSH's client exits with when it did not get to run the command.
NOT_CONNECTED = 255
PATIENCE_S = 3

MAKER = """
import sys, time
from pathlib import Path
from tests.testbed.testbed import Testbed
bed = Testbed(Path(sys.argv[1]), "one")
bed["one"].slow(delay_s=0.01)
print(bed["one"].pid, bed.switch.cable, flush=True)
time.sleep(600)
"""

LACKING = """
from tests.testbed import testbed

def test_it(tmp_path):
    testbed.PROGRAMS = ("no-such-program",)
    testbed.Testbed(tmp_path, "one")
"""


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Testbed]:
    """No pool is on it."""
    with Testbed(tmp_path_factory.mktemp("bare"), "one", "two") as bed:
        yield bed


def client(person: Person) -> tuple[str, ...]:
    known = person.ssh / "known_hosts"
    return ("ssh", "-F", "none", "-i", str(person.key), f"-oUserKnownHostsFile={known}", "-oBatchMode=yes")


def ssh(person: Person, machine: Machine, command: str, say: str = "") -> subprocess.CompletedProcess[str]:
    """The system's own client: nothing of ours."""
    options = [
        f"-oUserKnownHostsFile={person.ssh / 'known_hosts'}",
        "-oBatchMode=yes",
        f"-oConnectTimeout={PATIENCE_S}",
    ]
    return subprocess.run(
        ["ssh", "-F", "none", "-i", person.key, *options, f"{person.name}@{machine.address}", command],
        input=say,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def answers(person: Person, machine: Machine) -> bool:
    return ssh(person, machine, "true").returncode == 0


def test_machines_have_their_own_names_homes_processes_tmp_and_boot_ids(bed: Testbed) -> None:
    look = "hostname; pwd; cat /proc/sys/kernel/random/boot_id; ls /tmp/mine; cat /etc/hosts; ps -A -o comm="
    bed["one"].run(["touch", "/tmp/mine"])
    one, two = (ssh(bed.ann, bed[name], look) for name in ("one", "two"))
    assert one.stdout.splitlines()[:2] == ["one", "/home/ann"]
    assert two.stdout.splitlines()[:2] == ["two", "/home/ann"]
    assert "/tmp/mine" in one.stdout
    assert "/tmp/mine" in two.stderr
    here = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert len({here, one.stdout.splitlines()[2], two.stdout.splitlines()[2]}) == 3
    assert f"{bed['two'].address} two" in one.stdout
    assert "pytest" not in one.stdout
    assert ssh(bed.bob, bed["one"], "pwd").stdout == "/home/bob\n"
    # the keys of one person open no other's account
    bed.bob.name = ANN.name
    try:
        refused = ssh(bed.bob, bed["one"], "true")
    finally:
        bed.bob.name = "bob"
    assert (refused.returncode, "Permission denied" in refused.stderr) == (NOT_CONNECTED, True)


def test_machine_shows_the_tests_python_and_not_the_repository_and_is_read_only_but_for_its_own(bed: Testbed) -> None:
    imported = ssh(bed.ann, bed["one"], f"{sys.executable} -c 'import ray, jax; print(ray.__version__)'")
    assert imported.returncode == 0, imported.stderr
    assert ssh(bed.ann, bed["one"], f"ls {Path(__file__).parents[2]}").stdout == ""
    with pytest.raises(subprocess.CalledProcessError):
        bed["one"].run(["touch", "/usr/lib/mine"])


def test_group_of_vfio_open_on_one_machine_is_busy_there_and_free_on_the_other(bed: Testbed) -> None:
    holder = subprocess.Popen(
        ["nsenter", f"--target={bed['one'].pid}", "--mount", "--pid", "sh", "-c", "exec 3< /dev/vfio/0; echo; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    script = "import os; os.open('/dev/vfio/0', os.O_RDWR)"
    busy, free = (ssh(bed.ann, bed[name], f'python3 -c "{script}"') for name in ("one", "two"))
    holder.communicate()
    assert os.strerror(errno.EBUSY) in busy.stderr
    assert free.returncode == 0, free.stderr


def test_machine_reaps_what_lost_its_parent(bed: Testbed) -> None:
    orphan = bed["one"].run(["sh", "-c", "sleep 0.1 > /dev/null & echo $!"]).strip()
    proc = bed["one"].outside(f"/proc/{orphan}")
    wait_until(lambda: not proc.exists(), what="the end of a zombie")


def test_cut_machine_does_not_answer_until_it_is_healed_and_the_other_does(bed: Testbed) -> None:
    bed["one"].cut()
    try:
        lost = ssh(bed.ann, bed["one"], "true")
        assert (lost.returncode, "timed out" in lost.stderr or "No route" in lost.stderr) == (NOT_CONNECTED, True)
        assert answers(bed.ann, bed["two"])
    finally:
        bed["one"].heal()
    wait_until(lambda: answers(bed.ann, bed["one"]), what="an answer after the heal")


def connecting_s(machine: Machine) -> float:
    """The kernels' part of it, which no load of this machine delays."""
    since = time.monotonic()
    socket.create_connection((machine.address, 22), PATIENCE_S).close()
    return time.monotonic() - since


def test_slow_and_lossy_cable_delays_and_loses_and_is_calm_again(bed: Testbed) -> None:
    before = bed["one"].retransmitted
    bed["one"].slow(delay_s=0.1, loss=0.05)
    try:
        assert connecting_s(bed["one"]) > 2 * 0.1
        said = ssh(bed.ann, bed["one"], "wc -c && head -c 300000 /dev/zero", "x" * 300_000)
    finally:
        bed["one"].calm()
    assert (said.stdout[:7].strip(), said.stdout.count("\0")) == ("300000", 300_000)
    assert bed["one"].retransmitted > before
    assert connecting_s(bed["one"]) < 2 * 0.1


def test_sshd_killed_refused_or_hanging_is_seen_as_such_and_comes_back(bed: Testbed) -> None:
    machine = bed["one"]
    command = [*client(bed.ann), f"ann@{machine.address}", "echo; cat"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as session:
        assert session.stdin is not None
        assert session.stdout is not None
        session.stdout.readline()
        machine.refuse()
        refused = ssh(bed.ann, machine, "true")
        assert (refused.returncode, "refused" in refused.stderr) == (NOT_CONNECTED, True)
        session.stdin.write(b"still there\n")
        session.stdin.flush()
        assert session.stdout.readline() == b"still there\n"
        machine.start_sshd()
        machine.hang_sshd()
        silent = ssh(bed.ann, machine, "true")
        assert (silent.returncode, "timed out" in silent.stderr) == (NOT_CONNECTED, True)
        machine.resume_sshd()
        assert answers(bed.ann, machine)
        machine.kill_sshd()
        assert session.wait(30) == NOT_CONNECTED
    machine.start_sshd()
    assert answers(bed.ann, machine)


def test_host_key_changed_is_refused_until_it_is_known(bed: Testbed) -> None:
    bed["one"].change_host_key()
    refused = ssh(bed.ann, bed["one"], "true")
    assert (refused.returncode, "IDENTIFICATION HAS CHANGED" in refused.stderr) == (NOT_CONNECTED, True)
    bed.ann.knows(*bed.machines.values())
    assert answers(bed.ann, bed["one"])


def test_reboot_ends_every_process_without_a_word_and_keeps_the_homes_and_the_address(bed: Testbed) -> None:
    machine = bed["one"]
    ssh(bed.ann, machine, "touch ~/kept /tmp/lost; sleep 600 > /dev/null 2>&1 &")
    (sleeper,) = machine.processes("sleep 600")
    boot_id = machine.run(["cat", "/proc/sys/kernel/random/boot_id"])
    machine.halt()
    assert not Path(f"/proc/{sleeper.pid}").exists()
    assert not answers(bed.ann, machine)
    machine.boot()
    back = ssh(bed.ann, machine, "ls ~; ls /tmp/lost; cat /proc/sys/kernel/random/boot_id")
    assert back.stdout.startswith("kept\n"), back.stderr
    assert "/tmp/lost" in back.stderr
    assert boot_id not in back.stdout


def test_two_testbeds_share_nothing_and_one_ends_alone(bed: Testbed, tmp_path: Path) -> None:
    with Testbed(tmp_path / "other", "one") as other:
        assert other["one"].address != bed["one"].address
        assert other.ann.public_key != bed.ann.public_key
        assert answers(other.ann, other["one"])
        assert other["one"].processes("sshd") != bed["one"].processes("sshd")
        with pytest.raises(subprocess.CalledProcessError):
            other["one"].run(["ssh-keyscan", "-T", "1", bed["one"].address])
    assert answers(bed.ann, bed["one"])


def test_maker_killed_leaves_no_machine_and_no_network(tmp_path: Path) -> None:
    maker = subprocess.Popen(
        [sys.executable, "-c", MAKER, tmp_path / "bed"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert maker.stdout is not None
    pid, cable = maker.stdout.readline().split()
    assert Path(f"/proc/{pid}").exists()
    assert Path(f"/sys/class/net/{cable}").exists()
    maker.send_signal(signal.SIGKILL)
    maker.wait()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the machine")
    wait_until(lambda: not Path(f"/sys/class/net/{cable}").exists(), what="the end of the network")


def test_testbed_on_a_machine_that_cannot_make_one_skips_and_the_end_of_the_run_says_so(tmp_path: Path) -> None:
    module = tmp_path / "test_it.py"
    module.write_text(LACKING)
    said = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "-p", "no:cacheprovider", module],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "NOT TESTED, 1 test: a testbed of hosts needs no-such-program here" in said.stdout, said.stdout
