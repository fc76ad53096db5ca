"""How Ray's processes are started: patient for longer than hosts, on ports of their own, pinned by our label."""

import json
import subprocess
import sys

import pytest

from core.visit import Platform, Target
from infra import raylet
from infra.pool import HOST_LABEL, RAYLET_LABEL, HostSpec


def spec(target: Target) -> HostSpec:
    return HostSpec(name="a", machine="m", target=target, selector={HOST_LABEL: "a"}, labels={"rack": "7"})


def options(command: list[str]) -> dict[str, str]:
    return dict(word.removeprefix("--").split("=", 1) for word in command if word.startswith("--") and "=" in word)


@pytest.mark.parametrize("orphan_s", [0.5, 900.0, 1000.1])
def test_patience_of_ray_is_beyond_twice_that_of_a_host(orphan_s: float) -> None:
    found = raylet.environment("/t", orphan_s)
    # a look that is refused fails at once: nothing but the period lies between two
    assert int(found["RAY_health_check_failure_threshold"]) * raylet.HEALTH_CHECK_PERIOD_S >= 2 * orphan_s
    assert int(found["RAY_gcs_rpc_server_reconnect_timeout_s"]) >= 2 * orphan_s


def test_period_of_health_checks_is_rays_own() -> None:
    from ray._raylet import Config

    assert Config.health_check_period_ms() == raylet.HEALTH_CHECK_PERIOD_S * 1000


def test_connections_of_ray_are_given_up_as_soon_as_we_say() -> None:
    ask = "from ray._raylet import Config; print(Config.grpc_client_keepalive_timeout_ms())"
    asked = subprocess.run(
        [sys.executable, "-c", ask], env=raylet.member("/token"), capture_output=True, text=True, check=True
    )
    assert float(asked.stdout) == raylet.UNACKNOWLEDGED_S * 1000


def test_raylet_carries_our_labels_and_those_of_the_pool_and_a_word_of_its_own() -> None:
    command = raylet.raylet("/py", "10.0.0.1:6000", "10.0.0.2", "/tmp/x/r", spec(Target()), "0123")
    labels = dict(pair.split("=") for pair in options(command)["labels"].split(","))
    assert labels == {"rack": "7", HOST_LABEL: "a", "hillclimb-machine": "m", RAYLET_LABEL: "0123"}
    assert command[:3] == ["/py", "-m", "ray.scripts.scripts"]
    assert options(command)["address"] == "10.0.0.1:6000"
    assert options(command)["node-ip-address"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (Target(platform=Platform.TPU, devices=4, kind="TPU v5"), {"num-gpus": "0", "resources": {"TPU": 4}}),
        (Target(platform=Platform.CUDA, devices=8), {"num-gpus": "8"}),
        (Target(platform=Platform.CPU, devices=4), {"num-gpus": "0"}),
    ],
)
def test_raylet_says_what_accelerator_its_host_has(target: Target, said: dict[str, object]) -> None:
    found = options(raylet.raylet("/py", "h:1", "h", "/t", spec(target), "0123"))
    chosen = {key: found[key] for key in ("num-gpus", "resources") if key in found}
    if "resources" in chosen:
        assert json.loads(chosen.pop("resources")) == said["resources"]
    assert chosen == {key: value for key, value in said.items() if key != "resources"}


def test_head_runs_nothing_and_takes_no_port_that_another_pool_could_have() -> None:
    found = options(raylet.head("/py", "10.0.0.1", 6000, 6001, "/t"))
    assert (found["num-cpus"], found["num-gpus"]) == ("0", "0")
    assert "labels" not in found
    assert (found["port"], found["ray-client-server-port"]) == ("6000", "6001")
    assert {found[name] for name in ("min-worker-port", "max-worker-port", "dashboard-agent-listen-port")} == {"0"}


@pytest.mark.parametrize(("address", "said"), [("10.0.0.1", "10.0.0.1:6000"), ("fd00::1", "[fd00::1]:6000")])
def test_endpoint_of_an_address_is_told_apart_from_its_port(address: str, said: str) -> None:
    assert raylet.endpoint(address, 6000) == said
