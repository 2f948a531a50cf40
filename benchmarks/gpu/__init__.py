"""What promptmill does on a GPU, measured by one command: `benchmarks/gpu.sh`.

Needs Python, torch, transformers and numpy only. It knows the engine through `build_engine`, as every feeder does.
"""
