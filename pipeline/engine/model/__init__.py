"""From a model's files to a model that is ready to run: check, load, replace layers."""
