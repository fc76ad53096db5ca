"""Commands with a host's fields in them: what is filled in stays in its argument, and nothing else is looked up."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.template import PLACEHOLDERS, checked, placeholders, rendered

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
VALUES = st.fixed_dictionaries(dict.fromkeys(PLACEHOLDERS, TEXT))
# An argument as pieces: (text, the placeholder after it).
ARGUMENT = st.lists(st.tuples(TEXT, st.sampled_from([None, *PLACEHOLDERS])), max_size=4)


def written(argument: list[tuple[str, str | None]]) -> str:
    doubled = ((text.replace("{", "{{").replace("}", "}}"), name) for text, name in argument)
    return "".join(text + (f"{{{name}}}" if name else "") for text, name in doubled)


@given(st.lists(ARGUMENT, min_size=1, max_size=5), VALUES)
def test_template_every_argument_comes_out_as_one_with_its_values_in_it(
    command: list[list[tuple[str, str | None]]], values: dict[str, str]
) -> None:
    template = checked(("program", *map(written, command)))
    assert rendered(template, values) == [
        "program",
        *("".join(text + (values[name] if name else "") for text, name in argument) for argument in command),
    ]
    assert placeholders(template) == {name for argument in command for _, name in argument if name}


@given(st.lists(st.text("{}n!:.[]0 a", max_size=8) | st.sampled_from(["{name}", "{name.__class__}"]), max_size=3))
def test_template_that_passes_its_check_is_always_rendered_and_any_other_is_told_its_way_out(
    arguments: list[str],
) -> None:
    try:
        template = checked(("program", *arguments))
    except ValueError as refusal:
        assert ": write " in str(refusal) or ": there are {name}" in str(refusal)
    else:
        assert len(rendered(template, dict.fromkeys(PLACEHOLDERS, "{port} a b"))) == len(template)


def test_template_value_that_looks_like_a_placeholder_is_not_filled_in_again() -> None:
    values = dict.fromkeys(PLACEHOLDERS, "x") | {"name": "{user} {{port}}", "machine": "$(reboot); `id`"}
    assert rendered(("{name}", "-m={machine}"), values) == ["{user} {{port}}", "-m=$(reboot); `id`"]


def test_template_of_a_pool_without_the_command_is_nothing_to_run() -> None:
    assert rendered(checked(()), {}) == []


def test_template_without_a_value_for_its_placeholder_is_not_rendered() -> None:
    with pytest.raises(KeyError):
        rendered(("{user}",), {"name": "a"})
