"""Files that appear under their final name whole or not at all, and that no later writer overwrites by accident."""
