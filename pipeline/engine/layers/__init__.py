"""What stands in the place of a model's layers, and the checks that choose it."""
