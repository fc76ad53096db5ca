"""${message}

Frozen text: what later code says about the tables must not change what this revision did.
"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "op.execute(...)"}
