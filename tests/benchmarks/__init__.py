"""How fast, how large: `uv run python -m tests.benchmarks`."""
