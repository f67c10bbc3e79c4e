"""How long things take, beside those who do the same: ``python -m benchmarks``."""
