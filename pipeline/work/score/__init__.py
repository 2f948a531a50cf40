"""The job that scores: its configuration, its recipe, and the windows in which long texts are read."""
