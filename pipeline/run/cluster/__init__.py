"""Replicas on Ray, and jobs on a Ray cluster."""
