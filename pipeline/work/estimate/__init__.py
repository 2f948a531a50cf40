"""Says beforehand what a job takes: from a sample of its rows, and a calibration of its model on this machine."""
