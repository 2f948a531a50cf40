"""Scored texts: their columns, the table of a part, and the figures that follow from its sums."""
