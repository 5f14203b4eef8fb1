"""What keeps the platform healthy: retention, reconcile, metrics and the status page, alerts."""
