"""What looks after runs and ticks: alerts, and the end of runs that nobody works on."""
