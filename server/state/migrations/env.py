"""What alembic runs: the migrations, on the connection and in the transaction that `schema.upgrade` hands it."""

from alembic import context

from wardround.server.state.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    transactional_ddl=True,  # SQLite can, as long as nobody says BEGIN in its place
)
context.run_migrations()
