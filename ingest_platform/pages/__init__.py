"""What people see in Dagster, the same for every source."""
