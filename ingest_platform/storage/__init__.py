"""Moving bytes: verified transfers from the sources, the published store, scratch folders."""
