"""Which code was measured: the bundles that hosts were given, the one of a visit, and the commits that names stood for.

Frozen text: what later code says about the tables must not change what this revision did.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

STATEMENTS = (
    """
    CREATE TABLE bundle (
        id TEXT NOT NULL,
        code TEXT NOT NULL,
        revision TEXT NOT NULL,
        diff TEXT NOT NULL,
        PRIMARY KEY (id)
    )
     STRICT
    """,
    "ALTER TABLE series ADD COLUMN revisions TEXT DEFAULT '{}' NOT NULL",
    "ALTER TABLE visit ADD COLUMN bundle TEXT DEFAULT '' NOT NULL",
    "CREATE INDEX job_of_code ON job (json_extract(spec, '$.code')) WHERE json_extract(spec, '$.code') <> ''",
    "DROP TRIGGER visit_fixed",
    """
    CREATE TRIGGER visit_fixed BEFORE UPDATE OF id, block, host, epoch, slot_order, bundle ON visit
    BEGIN SELECT RAISE(ABORT, 'id, block, host, epoch, slot_order, bundle of a visit never change'); END
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.get_bind().exec_driver_sql(statement)
