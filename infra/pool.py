"""A pool: the hosts a matrix is run on, by name, and how they are reached.

`local` is emulated on this machine and lives and dies with its controller; `ssh` is hosts that have nothing but SSH
and Python, on which hillclimb brings Ray up; `ray` attaches to a running cluster whose nodes carry the label
HOST_LABEL. A pool file is TOML. What is read here can be used: names are unique, every host has an accelerator that
lies in one machine, every command can be filled in for every host. Whether anything answers is not asked here.
"""

import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from core.errors import HillclimbError
from core.model import Frozen
from core.visit import Deadlines, Platform, Target
from infra import accelerator, fields, template
from infra.complaint import complaint, dotted

# Our own label: a raylet that comes back has a new node id but the same label.
HOST_LABEL = "hillclimb-host"

# Tells two raylets of one host apart, which HOST_LABEL is there not to do.
RAYLET_LABEL = "hillclimb-raylet"

# Where ssh connects when nobody says otherwise.
SSH_PORT = 22

# The name of a head that is no host of its pool.
HEAD = "head"


def _known(text: str) -> str:
    accelerator.parse(text)
    return text


Accelerator = Annotated[str, AfterValidator(_known)]
OptionalAccelerator = Annotated[str, fields.optional(_known)]
Command = Annotated[tuple[str, ...], AfterValidator(template.checked)]


class HostSpec(Frozen):
    """One host. `selector` pins an actor to it; hosts of one `machine` are never timed at the same time."""

    name: str
    machine: str
    target: Target
    selector: dict[str, str]
    labels: dict[str, str] = Field({}, description="of its Ray node, besides our own")


class Policy(Frozen):
    """What every pool decides about its hosts."""

    exclusive: bool = Field(True, description="one visit at a time on a machine: tests may say false")
    deadlines: Deadlines = Field(Deadlines(), description="seconds a phase of an arm may last: a table")
    # A killed controller, a closed laptop or a cut link of a quarter of an hour costs no run; an accelerator that
    # nobody asks about for longer is given back.
    orphan_s: Annotated[float, Field(gt=0, description="a host works on for so long without any call")] = 900.0
    kill_foreign: bool = Field(False, description="may the ladder end processes that are not hillclimb's own")
    no_host_s: Annotated[float, Field(ge=0, description="give up after so long without any usable host")] = 600.0


class LocalPool(Policy):
    """Emulated hosts on this machine. One by default: two would measure each other."""

    # a file says what it is; only `--pool local` need not
    model_config = ConfigDict(json_schema_extra={"required": ["kind"]})

    kind: Literal["local"] = "local"
    hosts: Annotated[int, Field(ge=1, le=64, description="how many, all on this machine")] = 1
    devices: Annotated[int, Field(ge=1, le=64, description="emulated devices of a host")] = 4


class RayPool(Policy):
    """A running Ray cluster. Its hosts are the nodes that carry our label."""

    kind: Literal["ray"]
    address: fields.HeadAddress = Field(description="HOST:PORT of the cluster's head")
    token: str = Field("", description="file with the cluster's token; otherwise RAY_AUTH_TOKEN_PATH")
    accelerator: Accelerator = Field("cpu", description="of every host, such as v5p-8; its kind and count are asserted")


class Machine(Frozen):
    """Where SSH goes, the pool's defaults applied. "" and None: ssh_config decides; no `python`: one is made there."""

    name: str
    address: str
    user: str = ""
    port: int | None = None
    key: str = Field("", description="a path on this machine, ~ expanded")
    jump: str = Field("", description="[user@]address[:port], several separated by commas")
    python: str = ""


class Access(Frozen):
    """How a host is reached and what it is. A host's own come before the pool's."""

    user: fields.User = Field("", description="who logs in; otherwise ssh_config, or your own name")
    port: fields.Port | None = Field(None, description="of its sshd; otherwise ssh_config, or 22")
    key: fields.PathHere = Field("", description="private key, a file of this machine; otherwise ssh_config, or agent")
    jump: fields.Jump = Field("", description="[user@]address[:port] to go through; several separated by commas")
    accelerator: OptionalAccelerator = Field(
        "", description="such as v5p-8, v6e-4, cuda-8, cpu; kind and count are asserted"
    )
    python: fields.PathThere = Field("", description="an interpreter there, with hillclimb's dependencies")


class SshHost(Access):
    """A [hosts.NAME] table."""

    address: fields.Address = Field(description="host name or IP address, or an alias of your ssh_config")
    machine: fields.OtherName = Field(
        "", description="the machine it is, where several hosts are one; otherwise its name"
    )
    labels: dict[fields.LabelKey, fields.LabelValue] = Field({}, description="Ray labels of its node: a table")


class SshPool(Policy, Access):
    """Hosts with SSH and Python. Ray is brought up on them, and stays up when the controller goes."""

    kind: Literal["ssh"]
    hosts: dict[fields.Name, SshHost] = Field(description="a table [hosts.NAME] for each host")
    head: str = Field("", description="where Ray's head runs: a host's name or [user@]address[:port]; default: first")
    root: fields.Root = Field("~/.local/state/hillclimb", description="directory on the hosts for all that is ours")
    index: fields.Index = Field("", description="package index for the hosts' environments, a URL; default: PyPI")
    reallocate: Command = Field((), description="replaces a broken host: a list of arguments", strict=False)
    release: Command = Field((), description="gives a host back: a list of arguments", strict=False)
    preemption: Literal["", "gce"] = Field("", description="gce: the metadata server says when a host is taken away")

    def machines(self) -> dict[str, Machine]:
        """By host name, in the order of the file."""
        return {name: self._machine(name, host) for name, host in self.hosts.items()}

    def head_machine(self) -> Machine:
        """Where Ray's head runs: a host, by its name, or a machine called HEAD."""
        machines = self.machines()
        if not self.head:
            return next(iter(machines.values()))
        if self.head in machines:
            return machines[self.head]
        address, user, port = fields.destination(self.head)
        return self._machine(HEAD, SshHost(address=address, user=user, port=port))

    def specs(self) -> list[HostSpec]:
        return [
            HostSpec(
                name=name,
                machine=host.machine or name,
                target=accelerator.parse(host.accelerator or self.accelerator),
                selector={HOST_LABEL: name},
                labels=host.labels,
            )
            for name, host in self.hosts.items()
        ]

    def arguments(self, command: tuple[str, ...], host: str) -> list[str]:
        """`reallocate` or `release` for a host, ready to run without a shell; [] when the pool has none."""
        return template.rendered(command, self._values(host))

    def _machine(self, name: str, host: SshHost) -> Machine:
        return Machine(
            name=name,
            address=host.address,
            user=host.user or self.user,
            port=host.port or self.port,
            key=fields.expanded(host.key or self.key),
            jump=host.jump or self.jump,
            python=host.python or self.python,
        )

    def _values(self, name: str) -> dict[str, str]:
        """What a command may be filled with: the fields that are set."""
        machine = self._machine(name, self.hosts[name])
        values = {
            "name": name,
            "address": machine.address,
            "user": machine.user,
            "port": str(machine.port or ""),
            "machine": self.hosts[name].machine or name,
        }
        return {key: value for key, value in values.items() if value}

    @model_validator(mode="after")
    def _fits(self) -> "SshPool":
        if not self.hosts:
            raise ValueError("hosts is empty: add a table [hosts.NAME] for each host")
        seen: dict[tuple[str, int], str] = {}
        for name, machine in self.machines().items():
            if not (self.hosts[name].accelerator or self.accelerator):
                key = dotted("hosts", name, "accelerator")
                raise ValueError(f"{key} is missing: write it there, or once for the pool")
            target = accelerator.parse(self.hosts[name].accelerator or self.accelerator)
            if target.platform is Platform.CUDA and not machine.python:
                raise ValueError(
                    f"{dotted('hosts', name, 'python')} is missing: the environments that are made for hosts have no "
                    "CUDA; name an interpreter there that has hillclimb's dependencies and a JAX for CUDA"
                )
            place = (machine.address, machine.port or SSH_PORT)
            if place in seen:
                raise ValueError(
                    f"{dotted('hosts', name)} has the address and port of {dotted('hosts', seen[place])} "
                    f"({place[0]}, {place[1]}): leave one of them out"
                )
            seen[place] = name
        for command in ("reallocate", "release"):
            for name in self.hosts:
                needed = template.placeholders(getattr(self, command))
                if missing := sorted(needed - self._values(name).keys()):
                    raise ValueError(
                        f"{command} needs {dotted('hosts', name, missing[0])}: write it there, or once for the pool, "
                        f"or leave {{{missing[0]}}} out of the command"
                    )
        self._check_head(seen)
        return self

    def _check_head(self, hosts: dict[tuple[str, int], str]) -> None:
        if not self.head or self.head in self.hosts:
            return
        try:
            head = self.head_machine()
        except ValueError as e:
            raise ValueError(f"head = {self.head!r} is no host of the pool, and as an address: {e}") from e
        if same := hosts.get((head.address, head.port or SSH_PORT)):
            raise ValueError(f'head = {self.head!r} is the address of {dotted("hosts", same)}: write head = "{same}"')
        if HEAD in self.hosts:
            raise ValueError(f"hosts.{HEAD} has the name of the pool's head, {self.head!r}: give the host another name")


Pool = LocalPool | SshPool | RayPool
POOL: TypeAdapter[Pool] = TypeAdapter(Annotated[LocalPool | SshPool | RayPool, Field(discriminator="kind")])
_MODELS: dict[str, type[Policy]] = {"local": LocalPool, "ssh": SshPool, "ray": RayPool}


class PoolError(HillclimbError):
    """A pool that cannot be read or reached: says which, and what to do."""


class Unreachable(PoolError):
    """Nothing is wrong with what was asked, but nothing of the pool answers or works now."""

    exit_code = 6


def read_pool(name: str) -> Pool:
    """The pool called `local`, or the one a TOML file describes. Raises PoolError."""
    if name == "local":
        return LocalPool()
    path = Path(name)
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as e:
        raise PoolError(f"pool {name!r} is neither `local` nor a pool file ({e.strerror}): name one of them") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as e:
        raise PoolError(f"{name}: not TOML: {e}: correct it there") from e
    try:
        return POOL.validate_python(document)
    except ValidationError as e:
        raise PoolError(f"{name}: {complaint(e, document, _MODELS)}") from e
