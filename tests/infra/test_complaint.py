"""Wrong pool files: one sentence with file, key, value and fix, and exit code 2, wherever it stands."""

import copy
import datetime
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from core.visit import Deadlines
from infra.complaint import complaint
from infra.pool import POOL, LocalPool, PoolError, RayPool, SshHost, SshPool, read_pool
from orchestrator.cli import main as top
from tests.infra.examples import EXAMPLES, whole

KINDS = {"local": LocalPool, "ssh": SshPool, "ray": RayPool}

SSH = 'kind = "ssh"\naccelerator = "v5p-8"\n'
A = SSH + '[hosts.a]\naddress = "x"\n'
RAY = 'kind = "ray"\naddress = "h:1"\n'

NAME = (
    "a name has up to 63 letters, digits, dots, dashes and underscores, a letter or digit at both ends: write another"
)
WORD = "it has a space or a control character: write it without"
COLON = "only an IPv6 address has colons: write the address alone, a port as port = …"
HERE = "it would depend on where you stand: write a path from / or ~/"
THERE = "it must mean one file on the host, whoever looks: write a path from /"
PLACEHOLDERS = "there are {name}, {address}, {user}, {port}, {machine}: write one of them, and {{ and }} for braces"

WRONG = {
    # the file
    "kind = ray": "not TOML: Invalid value (at line 1, column 8): correct it there",
    "hosts = 2": 'kind is missing: add it, as in kind = "local"; there are local, ssh, ray',
    'kind = "rai"': 'kind = "rai": there are local, ssh, ray: write one of them',
    "kind = []": "kind = []: there are local, ssh, ray: write one of them",
    # values of every shape
    'kind = "local"\nhosts = "2"': (
        'hosts: "2" is not a whole number: write it without quotes or point, as in hosts = 8'
    ),
    'kind = "local"\nhosts = 0': "hosts: 0 is too small: write at least 1",
    'kind = "local"\nhosts = 65': "hosts: 65 is too large: write at most 64",
    'kind = "local"\nno_host_s = "1"': 'no_host_s: "1" is not a number: write it without quotes, as in no_host_s = 0.5',
    'kind = "local"\nexclusive = 1': (
        "exclusive: 1 is neither true nor false: write exclusive = true or exclusive = false"
    ),
    'kind = "local"\ndeadlines = 3': "deadlines = 3: it is a table: write [deadlines] and its keys below",
    'kind = "local"\n[deadlines]\ncompile = -3': "deadlines.compile: -3 is too small: write more than 0.0",
    # a Ray cluster
    'kind = "ray"': "address is missing: add it: HOST:PORT of the cluster's head",
    RAY.replace("h:1", "h"): 'address = "h": it is where the cluster\'s head listens: write HOST:PORT',
    RAY.replace("h:1", "h:0"): 'address = "h:0": there is no port 0: write one from 1 to 65535',
    RAY.replace("h:1", "fd00::1:1"): 'address = "fd00::1:1": it is where the cluster\'s head listens: write HOST:PORT',
    RAY + 'accelerator = "v5p-16"': (
        'accelerator = "v5p-16": v5p-16 spans several machines, and a visit runs on one: use v5p-8'
    ),
    # hosts
    SSH: "hosts is missing: add it: a table [hosts.NAME] for each host",
    SSH + "[hosts]": "hosts is empty: add a table [hosts.NAME] for each host",
    SSH + "hosts = 3": "hosts = 3: it is a table: write [hosts] and its keys below",
    SSH + '[hosts]\na = "x"': 'hosts.a = "x": it is a table: write [hosts.a] and its keys below',
    SSH + "[hosts.a]": ("hosts.a.address is missing: add it: host name or IP address, or an alias of your ssh_config"),
    SSH + '[hosts."a b"]\naddress = "x"': f'[hosts."a b"]: {NAME}',
    SSH + '[hosts.a-]\naddress = "x"': f"[hosts.a-]: {NAME}",
    SSH + f'[hosts.{64 * "a"}]\naddress = "x"': f"[hosts.{64 * 'a'}]: {NAME}",
    SSH + '[hosts."a.b"]\naddress = "x"\nport = 0': 'hosts."a.b".port: 0 is too small: write at least 1',
    A + 'port = "22"': 'hosts.a.port: "22" is not a whole number: write it without quotes or point, as in port = 8',
    A + "port = 65536": "hosts.a.port: 65536 is too large: write at most 65535",
    A + 'user = "a b"': f'hosts.a.user = "a b": {WORD}',
    A + 'user = "a@b"': 'hosts.a.user = "a@b": it has an @: write the user\'s name alone',
    A + 'key = "id_rsa"': f'hosts.a.key = "id_rsa": {HERE}',
    A + 'key = "/a\\u0000b"': f'hosts.a.key = "/a\\u0000b": {HERE}',
    A + 'jump = "a:b:c"': f'hosts.a.jump = "a:b:c": {COLON}',
    A + 'jump = "a,,b"': 'hosts.a.jump = "a,,b": it is empty: write a value',
    A + 'jump = "@a"': 'hosts.a.jump = "@a": it is empty: write a value',
    A + 'jump = "a:99999"': 'hosts.a.jump = "a:99999": there is no port 99999: write one from 1 to 65535',
    A + 'python = "~/env/bin/python"': f'hosts.a.python = "~/env/bin/python": {THERE}',
    A + 'python = "/opt/$(id)/python"': (
        'hosts.a.python = "/opt/$(id)/python": Ray hands it to a shell: write a path of letters, digits and '
        "_ . / + @ : , = -"
    ),
    A + 'machine = "a b"': f'hosts.a.machine = "a b": {NAME}',
    A + 'accelerator = "v5p-32"': (
        'hosts.a.accelerator = "v5p-32": v5p-32 spans several machines, and a visit runs on one: use v5p-8'
    ),
    A + 'labels.x = "a,b=c"': f'hosts.a.labels.x = "a,b=c": {NAME}',
    A + "labels.x = 3": 'hosts.a.labels.x: 3 is not a text: write it in quotes, as in x = "3"',
    A + 'labels."ray.io/rack" = "b"': f'[hosts.a.labels."ray.io/rack"]: {NAME}',
    A + 'labels.hillclimb-host = "b"': (
        "[hosts.a.labels.hillclimb-host]: labels that begin with hillclimb- are hillclimb's own: write another"
    ),
    SSH + '[hosts.a]\naddress = ""': 'hosts.a.address = "": it is empty: write a value',
    SSH + '[hosts.a]\naddress = "u@x"': (
        'hosts.a.address = "u@x": it names a user too: write the part before the @ as user = …, the rest here'
    ),
    SSH + '[hosts.a]\naddress = "x:22"': f'hosts.a.address = "x:22": {COLON}',
    SSH + '[hosts.a]\naddress = "-oProxyCommand=x"': (
        'hosts.a.address = "-oProxyCommand=x": it begins with a dash, and would be read as an option: write it without'
    ),
    # hosts together
    A.replace("v5p-8", "cuda-8"): (
        "hosts.a.python is missing: the environments that are made for hosts have no CUDA; name an interpreter there "
        "that has hillclimb's dependencies and a JAX for CUDA"
    ),
    A.replace('accelerator = "v5p-8"\n', ""): ("hosts.a.accelerator is missing: write it there, or once for the pool"),
    'kind = "ssh"\n[hosts."a.b"]\naddress = "x"': (
        'hosts."a.b".accelerator is missing: write it there, or once for the pool'
    ),
    A + '[hosts.b]\naddress = "x"\nport = 22': (
        "hosts.b has the address and port of hosts.a (x, 22): leave one of them out"
    ),
    'head = "x"\n' + A: "head = 'x' is the address of hosts.a: write head = \"a\"",
    'head = "u@x:22"\n' + A: "head = 'u@x:22' is the address of hosts.a: write head = \"a\"",
    'head = "x y"\n' + A: f"head = 'x y' is no host of the pool, and as an address: {WORD}",
    'head = "y"\n' + A.replace("hosts.a", "hosts.head"): (
        "hosts.head has the name of the pool's head, 'y': give the host another name"
    ),
    # the rest of an ssh pool
    'root = "hillclimb"\n' + A: (
        'root = "hillclimb": it must mean one directory on the host, whoever looks: write a path from / or ~/'
    ),
    'root = "/a:b"\n' + A: (
        'root = "/a:b": it has a colon, at which Python would cut its search path in two: write a path without'
    ),
    'index = "pypi"\n' + A: ('index = "pypi": it is no URL of a package index: write it as in https://pypi.org/simple'),
    'preemption = "aws"\n' + A: "preemption = \"aws\": write '' or 'gce'",
    'reallocate = "gcloud"\n' + A: (
        'reallocate = "gcloud": it is a list: write each argument as a text, as in reallocate = ["program", "{name}"]'
    ),
    'reallocate = ["sleep", 3]\n' + A: "reallocate[2] = 3: it is not a text: write it in quotes",
    'reallocate = [""]\n' + A: 'reallocate = [""]: its first argument is empty: write the program to run',
    'reallocate = ["a", "\\u0000"]\n' + A: (
        'reallocate = ["a", "\\u0000"]: \'\\x00\' has a NUL character, which no program can be given: leave it out'
    ),
    'release = ["{nam}"]\n' + A: f"release = [\"{{nam}}\"]: '{{nam}}': {PLACEHOLDERS}",
    'release = ["{}"]\n' + A: f"release = [\"{{}}\"]: '{{}}': {PLACEHOLDERS}",
    'release = ["{name.x}"]\n' + A: f"release = [\"{{name.x}}\"]: '{{name.x}}': {PLACEHOLDERS}",
    'release = ["{name[0]}"]\n' + A: f"release = [\"{{name[0]}}\"]: '{{name[0]}}': {PLACEHOLDERS}",
    'release = ["{name!r}"]\n' + A: f"release = [\"{{name!r}}\"]: '{{name!r}}': {PLACEHOLDERS}",
    'release = ["{name:>9}"]\n' + A: f"release = [\"{{name:>9}}\"]: '{{name:>9}}': {PLACEHOLDERS}",
    'release = ["{name"]\n' + A: (
        "release = [\"{name\"]: '{name': a brace stands alone: write {{ or }} for one that is of no placeholder"
    ),
    'release = ["x", "{user}"]\n' + A: (
        "release needs hosts.a.user: write it there, or once for the pool, or leave {user} out of the command"
    ),
    'release = ["x", "{port}"]\n' + A: (
        "release needs hosts.a.port: write it there, or once for the pool, or leave {port} out of the command"
    ),
}


@pytest.mark.parametrize(("text", "said"), WRONG.items(), ids=list(WRONG.values()))
def test_pool_file_with_a_wrong_value_is_refused_with_key_value_and_fix(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "pool.toml"
    path.write_text(text)
    with pytest.raises(PoolError) as refused:
        read_pool(str(path))
    assert str(refused.value) == f"{path}: {said}"


def tables(document: dict[str, Any], at: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """The tables whose keys are ours: not that of the hosts, nor of labels."""
    if at[-1:] not in [("hosts",), ("labels",)]:
        yield at, document
    for key, value in document.items():
        if isinstance(value, dict):
            yield from tables(value, (*at, key))


def keys() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Of every example: each key that stands in it, in use or not."""
    for example in EXAMPLES:
        for at, table in tables(whole(example)):
            yield from ((example, (*at, key)) for key in table)


def table_of(document: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for part in path[:-1]:
        document = document[part]
    return document


def said_of(document: dict[str, Any]) -> str:
    with pytest.raises(ValidationError) as refused:
        POOL.validate_python(document)
    return complaint(refused.value, document, KINDS)


def fields_of(kind: str, place: list[str]) -> list[str]:
    match place:
        case []:
            return list(KINDS[kind].model_fields)
        case ["deadlines"]:
            return list(Deadlines.model_fields)
        case _:
            return list(SshHost.model_fields)


KEYS = [each for each in keys() if each[1] != ("kind",)]
IDS = [f"{example}: {'.'.join(path)}" for example, path in KEYS]


@pytest.mark.parametrize(("example", "path"), KEYS, ids=IDS)
def test_pool_file_misspelt_key_is_named_with_its_place_and_the_nearest(example: str, path: tuple[str, ...]) -> None:
    document = copy.deepcopy(whole(example))
    table = table_of(document, path)
    *place, key = path
    table[key + "x"] = table.pop(key)
    said = said_of(document)
    known = ", ".join(fields_of(whole(example)["kind"], place))
    assert said == f"unknown key {'.'.join([*place, key])}x: did you mean {key}? known here: {known}"


def test_pool_file_key_that_is_near_to_none_is_told_those_there_are() -> None:
    host = {"address": "x", "zz": 8}
    said = said_of({"kind": "ssh", "hosts": {"a": host}})
    assert said == f"unknown key hosts.a.zz: known here: {', '.join(SshHost.model_fields)}"


@pytest.mark.parametrize(("example", "path"), KEYS, ids=IDS)
def test_pool_file_value_of_another_type_is_named_with_its_key_and_a_fix(example: str, path: tuple[str, ...]) -> None:
    document = copy.deepcopy(whole(example))
    table_of(document, path)[path[-1]] = datetime.date(2026, 1, 31)
    said = said_of(document)
    assert said.startswith(".".join(path))
    assert "2026-01-31" in said
    assert ": write" in said
    assert "Input" not in said


def test_pool_file_complaint_is_one_line_whatever_the_value() -> None:
    said = said_of({"kind": "local\nx"})
    assert "\n" not in said
    assert '"local\\nx"' in said


def test_command_with_a_wrong_pool_file_says_so_in_one_line_and_ends_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "it's a pool.toml"
    path.write_text(A + "port = 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["hillclimb", "pool", "check", "--pool", str(path)])
    monkeypatch.setattr(top.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as end:
        top.main()
    assert end.value.code == 2
    assert capsys.readouterr().err == f"hillclimb: {path}: hosts.a.port: 0 is too small: write at least 1\n"
    assert list(tmp_path.iterdir()) == [path]
