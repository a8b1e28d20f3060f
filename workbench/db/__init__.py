"""The only package that opens the database.

session    engines, transactions, the database's clock
tables     the tables (SQLAlchemy Core)
reading    fast reads for listings, without importing SQLAlchemy on SQLite
fencing    does this token still own its attempt?
owner      whose database it is: one home's
schema     which revision is stored, and how it is brought up to date
migrations Alembic's revisions
"""
