"""From a model's files to a model that is ready to run: checked, loaded whole, its parts exchanged."""
