"""Five sources, one ledger, one way to commit. `definitions.py` is the table of contents."""
