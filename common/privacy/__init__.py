"""Events, accounting, calibration, noise and the statement."""
