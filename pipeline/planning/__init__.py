"""Makes a plan from inputs and options: the shards and the plan id. Pure: it reads and writes no file."""
