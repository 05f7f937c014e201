"""More pictures than one run, models larger than one GPU."""
