"""What drivers on one output share: the queue of shards, claims, and suspected rows."""
