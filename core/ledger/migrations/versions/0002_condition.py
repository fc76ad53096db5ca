"""How a host stands: its state, the reason, and from which visit on its failures count.

Frozen text: what later code says about the tables must not change what this revision did.
"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.get_bind().exec_driver_sql(
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
    """
    )
