"""The supervisor: PID 1 of a run, parent of all its containers."""
