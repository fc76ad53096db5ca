"""`hillclimb schema`: what an editor is told of pool files is what hillclimb takes."""

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from orchestrator.cli.main import app
from tests.infra.examples import EXAMPLES, whole


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    run = CliRunner().invoke(app, ["schema", "pool"])
    assert run.exit_code == 0, run.output
    found: dict[str, Any] = json.loads(run.stdout)
    Draft202012Validator.check_schema(found)
    return found


@pytest.mark.parametrize("example", EXAMPLES)
def test_schema_takes_every_key_of_the_shipped_pools(schema: dict[str, Any], example: str) -> None:
    assert list(Draft202012Validator(schema).iter_errors(whole(example))) == []


HOST = {"address": "10.0.0.1"}


@pytest.mark.parametrize(
    "document",
    [
        {"hosts": 1},
        {"kind": "rai"},
        {"kind": "local", "host": 1},
        {"kind": "local", "hosts": "one"},
        {"kind": "ray"},
        {"kind": "ssh"},
        {"kind": "ssh", "hosts": {"a": {}}},
        {"kind": "ssh", "hosts": {"a": HOST | {"port": 0}}},
        {"kind": "ssh", "hosts": {"a": HOST | {"adress": "x"}}},
        {"kind": "ssh", "hosts": {"a": HOST}, "deadlines": {"compil": 1.0}},
        {"kind": "ssh", "hosts": {"a": HOST}, "preemption": "aws"},
        {"kind": "ssh", "hosts": {"a": HOST}, "release": "gcloud"},
    ],
    ids=json.dumps,
)
def test_schema_refuses_what_a_pool_file_may_not_say(schema: dict[str, Any], document: dict[str, Any]) -> None:
    assert not Draft202012Validator(schema).is_valid(document)


def test_schema_says_of_every_key_what_it_is_for(schema: dict[str, Any]) -> None:
    models = ("LocalPool", "RayPool", "SshPool", "SshHost")
    silent = [
        f"{model}.{key}"
        for model in models
        for key, about in schema["$defs"][model]["properties"].items()
        if "description" not in about and key != "kind"
    ]
    assert silent == []


def test_schema_of_another_file_is_refused_with_those_there_are() -> None:
    run = CliRunner().invoke(app, ["schema", "matrx"])
    assert run.exit_code == 2
    assert "'pool'" in run.output
