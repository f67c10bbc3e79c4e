"""The model: specs, waits, results, errors, settings, and the contract of engines."""
