"""Templates: what a row's columns are put into, safely and within bounds."""
