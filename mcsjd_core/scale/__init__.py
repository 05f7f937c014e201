"""More pictures than one run, more machines than one, models larger than one GPU."""
