"""How a host stands, with the visit from which on its failures count; and which series were paused for what their first
jobs did.

Frozen text: what later code says about the tables must not change what this revision did.
"""

from alembic import op

revision = "0002"
down_revision = "0001"

STATEMENTS = (
    """
    CREATE TABLE condition (
        host TEXT NOT NULL,
        state TEXT NOT NULL,
        reason TEXT NOT NULL,
        since_ns INTEGER NOT NULL,
        trusted_from INTEGER NOT NULL,
        PRIMARY KEY (host),
        FOREIGN KEY(host) REFERENCES host (name)
    )
     STRICT
    """,
    """
    CREATE TABLE alarm (
        series INTEGER NOT NULL,
        raised_at_ns INTEGER NOT NULL,
        PRIMARY KEY (series),
        FOREIGN KEY(series) REFERENCES series (id)
    )
     STRICT
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
