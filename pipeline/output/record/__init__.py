"""What an output says of its run: inputs, manifest, events, environment, prediction."""
