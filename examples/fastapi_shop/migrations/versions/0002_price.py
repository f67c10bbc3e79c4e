"""Prices, and the first item."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("item", sa.Column("price_cents", sa.Integer, nullable=False))
    op.execute("insert into item (name, price_cents) values ('apple', 30)")


def downgrade() -> None:
    op.drop_column("item", "price_cents")
