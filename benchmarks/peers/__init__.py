"""A script for each engine that promptmill is compared with, run in an environment that has that engine."""
