"""How fast a model is on this machine, and what memory it takes: measured once with random weights, and kept."""
