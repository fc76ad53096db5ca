"""The pool files that are shipped: each can be used as it stands, and together they show every key there is."""

import re
import tomllib
from collections import Counter

import pytest

from core.visit import Deadlines, Platform
from infra.pool import POOL, LocalPool, Policy, RayPool, SshHost, SshPool, read_pool
from tests.infra.examples import EXAMPLES, POOLS, text_of, whole

KINDS = {"local.toml": LocalPool, "ray.toml": RayPool, "v5p.toml": SshPool}


def test_examples_are_one_of_each_kind() -> None:
    assert KINDS.keys() == set(EXAMPLES)
    assert {name: type(read_pool(str(POOLS / name))) for name in EXAMPLES} == KINDS


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_with_all_it_shows_in_use_is_a_pool_too(example: str) -> None:
    assert isinstance(POOL.validate_python(whole(example)), KINDS[example])


@pytest.mark.parametrize(
    ("example", "model", "tables"),
    [
        ("local.toml", LocalPool, {"deadlines"}),
        ("ray.toml", RayPool, {"deadlines"}),
        ("v5p.toml", SshPool, {"deadlines", "hosts", "labels"}),
    ],
)
def test_example_shows_every_key_there_is_once(example: str, model: type[Policy], tables: set[str]) -> None:
    host = set(SshHost.model_fields) if model is SshPool else set()
    there_are = {*model.model_fields, *Deadlines.model_fields, *host} - tables
    shown = Counter(re.findall(r"^#?(\w+) = ", text_of(example), re.MULTILINE))
    # the label is the reader's own, and every host has an address
    assert shown == Counter(there_are) + (Counter(["rack", "address"]) if model is SshPool else Counter())
    headers = {
        part for header in re.findall(r"^\[(.*)\]", text_of(example), re.MULTILINE) for part in header.split(".")
    }
    assert headers == tables | ({"v5p-a", "v5p-b"} if model is SshPool else set())


@pytest.mark.parametrize("example", EXAMPLES)
def test_example_says_the_defaults_of_what_every_pool_decides(example: str) -> None:
    given = POOL.validate_python(whole(example))
    assert Policy(**{name: getattr(given, name) for name in Policy.model_fields}) == Policy()


def test_example_of_the_local_pool_is_the_local_pool() -> None:
    assert read_pool(str(POOLS / "local.toml")) == read_pool("local")


def test_example_of_tpu_hosts_is_two_v5p_8_that_need_no_more_than_their_addresses() -> None:
    document = tomllib.loads(text_of("v5p.toml"))
    assert document == {
        "kind": "ssh",
        "accelerator": "v5p-8",
        "deadlines": {},
        "hosts": {"v5p-a": {"address": "10.130.0.11", "labels": {}}, "v5p-b": {"address": "10.130.0.12"}},
    }
    pool = read_pool(str(POOLS / "v5p.toml"))
    assert isinstance(pool, SshPool)
    assert [(spec.name, spec.target.platform, spec.target.devices, spec.target.kind) for spec in pool.specs()] == [
        ("v5p-a", Platform.TPU, 4, "TPU v5"),
        ("v5p-b", Platform.TPU, 4, "TPU v5"),
    ]
