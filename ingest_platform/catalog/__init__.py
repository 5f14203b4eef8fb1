"""The ledger: what exists at the sources, who works on it, and the one thing that changes per partition."""
