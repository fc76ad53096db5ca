"""Bundles and their environments onto a host, each thing once: uv, the environment, the bundle, and last the mark.

The mark beside a bundle names the interpreter that runs it. It is written when everything it stands for is there and
was seen to work, so that whoever finds a mark can start; without it the bundle is not there, whatever else is. An
attempt that ends anywhere leaves nothing that is used, and the next one goes on from what was complete. What nobody
uses any more is removed whenever something new was placed.
"""

import hashlib
import json
import os
import platform
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from urllib.parse import urlsplit

import uv

from core.mark import mark_of
from infra.agent import Agent, Facts, RemoteError
from infra.bundle import Bundle, compress, pack
from infra.environment import Environment, environment_of
from infra.fields import is_plain
from infra.pool import PoolError
from infra.remote import files
from infra.remote.unused import prune
from infra.tree import File

# Bundles that stay though nothing runs them: a day of edits, and some revisions to compare them with. Each has 2 MB;
# an environment, 1.6 GB, stays as long as a bundle that names it.
NEWEST = 8
# What is younger than this may be on its way, from another controller: no environment takes longer.
YOUNG_S = 3600.0

# Half a GB of packages over a slow link.
_MAKE_S = YOUNG_S
# The first import compiles a thousand files.
_IMPORT_S = 600.0
_UV_S = 60.0

# Somebody may be measuring there.
GENTLY = ("nice", "-n", "19")

# What hosts and a head import; a revision may be older than the relay. The path begins with the bundle in place of the
# directory this is started in, which may hold anything. No accelerator is touched: JAX looks for one when it is asked.
_IMPORT = """
import sys
sys.path[0] = sys.argv[1]
import importlib.util, platform
sys.version_info < (3, 11) and sys.exit(f"it is Python {platform.python_version()}, and 3.11 or later is needed")
import jax, ray
for module in ("workers.actor", "workers.runner", "orchestrator.relay"):
    if importlib.util.find_spec(module):
        importlib.import_module(module)
print(f"Python {platform.python_version()}, Ray {ray.__version__}, JAX {jax.__version__}")
"""

_ONE_AT_A_TIME = threading.Lock()


def place(agent: Agent, bundle: Bundle, *, python: str, index: str, say: Callable[[str], None]) -> str:
    """Puts a bundle on a host, ready to run; returns the absolute path of its interpreter there.

    `python`: an interpreter of the host's own to use; "" makes an environment, with packages of `index`, a URL that may
    hold a password; "" is PyPI. Sends nothing that is there. Raises SshError, and PoolError that says what to do.
    """
    root = agent.look().root
    folder, mark = f"{root}/bundles/{bundle.id}", f"{root}/bundles/{mark_of(bundle.id, python)}"
    environment = None if python else environment_of(bundle, agent.look().arch)
    interpreter = f"{root}/envs/{environment.id}/bin/python" if environment else python
    if not is_plain(interpreter):
        raise PoolError(
            f"Ray would hand {interpreter} to a shell there: choose a `root` of letters, digits and _ . / + @ : , = -, "
            "or name an interpreter there as `python`"
        )
    complete = all(agent.exists(path) for path in (mark, folder, interpreter))
    if complete and agent.read(mark) == interpreter.encode():
        # what is used last goes last (`infra.remote.unused`)
        agent.run(["touch", mark])
        return interpreter
    if environment and not agent.exists(interpreter):
        _make(agent, environment, index, say)
    if not agent.exists(folder):
        agent.unpack(folder, bundle.archive)
        say(f"code {bundle.id[:12]}: {len(bundle.archive) / 1e6:.1f} MB sent")
    say(f"{interpreter}: {_versions(agent, interpreter, folder)}")
    agent.put(mark, interpreter.encode())
    agent.prune([bundle.id, environment.id] if environment else [bundle.id], NEWEST, YOUNG_S)
    return interpreter


def place_here(bundle: Bundle, bundles: Path) -> None:
    """Puts a bundle into a `bundles` folder of this machine, for the interpreter that runs this. Raises PoolError."""
    folder, mark = bundles / bundle.id, bundles / mark_of(bundle.id, "")
    with _ONE_AT_A_TIME:
        try:
            if folder.exists() and mark.exists() and mark.read_text() == sys.executable:
                os.utime(mark)
            else:
                files.unpack(folder, bundle.archive)
                files.replace(mark, os.fsencode(sys.executable), 0o644)
                prune(bundles.parent, [bundle.id], NEWEST, YOUNG_S)
        except OSError as e:
            raise PoolError(
                f"the code cannot be put into {bundles} ({e}): make room there, or set HILLCLIMB_STATE"
            ) from e


def _make(agent: Agent, environment: Environment, index: str, say: Callable[[str], None]) -> None:
    facts = agent.look()
    uv_there = _uv(agent, facts, say)
    place = f"{facts.root}/envs/{environment.id}"
    arguments = {
        "root": facts.root,
        "place": place,
        "making": f"{place}.tmp",
        "uv": uv_there,
        "python": environment.python,
        "requirements": environment.requirements,
        "constraints": environment.constraints,
    }
    say(f"environment {environment.id[:12]}: being made, half a GB is downloaded")
    began = time.monotonic()
    text = Path(__file__).with_name("make_venv.py").read_text()
    # the index may hold a password: everybody on a host can read the arguments of a process, not its environment
    ran = agent.run(
        [*GENTLY, facts.executable, "-I", "-c", text, json.dumps(arguments)],
        {"UV_DEFAULT_INDEX": index} if index else {},
        timeout_s=_MAKE_S,
    )
    if ran.returncode != 0:
        raise PoolError(
            f"its environment cannot be made ({_told(ran.stderr, index)}): it takes Python {environment.python}, 3 GB "
            "of disk and a package index that the host reaches (`index`); or name an interpreter there, with "
            "hillclimb's dependencies, as `python`"
        )
    say(f"environment {environment.id[:12]}: made in {time.monotonic() - began:.0f} s")


def _told(said: str, index: str) -> str:
    """In one line, and without the password of the index: uv hides it, whatever else speaks may not."""
    password = urlsplit(index).netloc.rpartition("@")[0]
    line = " ".join(said.split())[-1000:]
    return line.replace(password, "…") if password else line


def _versions(agent: Agent, interpreter: str, folder: str) -> str:
    """What the interpreter runs the bundle with. Raises PoolError unless it can."""
    try:
        ran = agent.run([*GENTLY, interpreter, "-c", _IMPORT, folder], {"JAX_PLATFORMS": "cpu"}, timeout_s=_IMPORT_S)
        said = ran.stdout.strip().splitlines()
        if ran.returncode == 0 and said:
            return said[-1]
        why = (ran.stderr.strip() or f"it ended with status {ran.returncode}").splitlines()[-1]
    except RemoteError as e:
        why = str(e)
    raise PoolError(
        f"{interpreter} cannot run hillclimb there ({why}): name an interpreter that has its dependencies as `python`, "
        "or leave `python` out and an environment is made"
    )


def _uv(agent: Agent, facts: Facts, say: Callable[[str], None]) -> str:
    """The path of a uv that runs on the host: this machine's own, sent there once, or one that the host has."""
    if (platform.system(), platform.machine()) == ("Linux", facts.arch):
        name, archive = _own_uv()
        if not agent.exists(f"bin/{name}"):
            agent.unpack(f"bin/{name}", archive)
            say(f"uv: {len(archive) / 1e6:.1f} MB sent")
        return f"{facts.root}/bin/{name}/uv"
    # on the PATH of an SSH session, or where its own installer puts it
    for path in ("uv", f"{facts.home}/.local/bin/uv"):
        with suppress(RemoteError):
            if agent.run([path, "--version"], timeout_s=_UV_S).returncode == 0:
                return path
    raise PoolError(
        f"the uv of this machine ({platform.system()}, {platform.machine()}) does not run there (Linux, {facts.arch}): "
        "install uv there (`curl -LsSf https://astral.sh/uv/install.sh | sh`), or name an interpreter there, with "
        "hillclimb's dependencies, as `python`"
    )


def _own_uv() -> tuple[str, bytes]:
    """Its name on hosts, and what is sent. Packed once, however many hosts ask at the same time: it takes a second."""
    with _ONE_AT_A_TIME:
        return _pack_uv()


@cache
def _pack_uv() -> tuple[str, bytes]:
    tar = pack({"uv": File(Path(uv.find_uv_bin()).read_bytes(), executable=True)})
    return f"uv-{hashlib.sha256(tar).hexdigest()[:12]}", compress(tar)
