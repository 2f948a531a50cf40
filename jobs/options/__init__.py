"""From a command line to a typed configuration: presets, overrides, help, and what is wrong with them."""
