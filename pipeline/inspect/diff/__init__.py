"""Compares two outputs row by row, in bounded memory, and names the cause of what differs."""
