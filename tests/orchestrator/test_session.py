"""What is refused before a pool is driven."""

import pytest

from core.code import code_hash
from core.ledger.writer import OnChange
from core.matrix import NO_OVERRIDES
from infra.pool import LocalPool, PoolError, RayPool, SshHost, SshPool
from orchestrator import requests
from orchestrator.join import CodeChanged, join
from orchestrator.requests import queue_body
from orchestrator.session import EXIT_BLOCKED, check_revisions
from tests.orchestrator.test_end_to_end import MATRIX

CODED = MATRIX.replace("[axes]", '[axes]\ncode = ["main", "."]')
RAY = RayPool(kind="ray", address="10.0.0.2:6379")


def test_matrix_of_the_working_tree_is_for_any_pool() -> None:
    body = queue_body(MATRIX, "m.toml", NO_OVERRIDES, OnChange.REFUSE)
    check_revisions(RAY, body)
    check_revisions(LocalPool(), body)


def test_matrix_of_revisions_is_refused_for_a_ray_pool_with_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_commit", lambda _: "0" * 40)
    body = queue_body(CODED, "m.toml", NO_OVERRIDES, OnChange.REFUSE)
    assert body["revisions"] == {"main": "0" * 40}
    check_revisions(LocalPool(), body)
    with pytest.raises(PoolError, match="code = main: the hosts of a ray pool run the code that is on them: leave"):
        check_revisions(RAY, body)


def test_code_that_was_edited_since_it_was_queued_is_not_put_on_hosts() -> None:
    """Nothing answers at that port: with the code as it was, that is what is found out next."""
    nobody = SshPool(kind="ssh", hosts={"one": SshHost(address="127.0.0.1", port=1, accelerator="cpu")})
    with pytest.raises(CodeChanged, match="run the matrix again"), join(nobody, print, code="what it was"):
        pass
    with pytest.raises(PoolError, match="one"), join(nobody, print, code=code_hash()):
        pass
    assert CodeChanged.exit_code == EXIT_BLOCKED
