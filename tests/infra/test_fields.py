"""Where SSH goes, as OpenSSH writes it, and the labels that Ray takes."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from ray._private.label_utils import validate_node_label_syntax, validate_node_labels

from infra.fields import Destination, LabelKey, LabelValue, destination

LABELS: TypeAdapter[dict[str, str]] = TypeAdapter(dict[LabelKey, LabelValue])


@pytest.mark.parametrize(
    ("text", "meant"),
    {
        "tpu-a": Destination("tpu-a", "", None),
        "10.0.0.1:2222": Destination("10.0.0.1", "", 2222),
        "mara@tpu-a": Destination("tpu-a", "mara", None),
        "mara@tpu-a.example.com:65535": Destination("tpu-a.example.com", "mara", 65535),
        "fd00::1": Destination("fd00::1", "", None),
        "[fd00::1]": Destination("fd00::1", "", None),
        "mara@[fd00::1]:22": Destination("fd00::1", "mara", 22),
        "fe80::1%eth0": Destination("fe80::1%eth0", "", None),
    }.items(),
)
def test_destination_is_read_as_openssh_reads_it(text: str, meant: Destination) -> None:
    assert destination(text) == meant


@pytest.mark.parametrize(
    ("text", "said"),
    {
        "": "it is empty",
        "@tpu-a": "it is empty",
        "mara@": "it is empty",
        "a b": "it has a space",
        "tpu-a:": "only an IPv6 address has colons",
        "tpu-a:ssh": "only an IPv6 address has colons",
        "[tpu-a": "only an IPv6 address",
        "tpu-a:0": "there is no port 0",
        "tpu-a:65536": "there is no port 65536",
        "-oProxyCommand=reboot": "begins with a dash",
        "-l@tpu-a": "begins with a dash",
    }.items(),
)
def test_destination_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        destination(text)


@given(st.text())
def test_destination_any_text_is_one_word_each_or_refused_with_a_way_out(text: str) -> None:
    try:
        found = destination(text)
    except ValueError as refusal:
        assert "write " in str(refusal)
    else:
        assert found.address
        assert not any(word.startswith("-") or word.split() != [word] for word in (found.address, found.user) if word)
        assert found.port is None or 1 <= found.port <= 65535


@given(st.text("aZ0._-/ =,\"'", max_size=66), st.text("aZ0._-/ =,\"'", max_size=66))
@example("a" * 63, "Z" * 63)
@example("a", "")
@example("ray.io/market-type", "spot")
def test_labels_that_are_not_refused_are_taken_by_ray(key: str, value: str) -> None:
    try:
        labels = LABELS.validate_python({key: value})
    except ValidationError:
        return
    validate_node_label_syntax(labels)
    validate_node_labels(labels)


def test_labels_of_every_character_that_ray_takes_are_not_refused() -> None:
    labels = {"a.B_c-9": "Z.9_y-X", "k" * 63: "v" * 63, "x": ""}
    validate_node_label_syntax(labels)
    assert LABELS.validate_python(labels) == labels
