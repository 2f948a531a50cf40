"""One job without a cluster: its configuration, what is refused beforehand, and a worker that does a shard."""
