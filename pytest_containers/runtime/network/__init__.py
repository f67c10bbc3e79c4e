"""Networks of a run: the helper that makes them, the pool that hands them out, relays, ports."""
