"""Programs that use a run for long, and what their figures have to be."""
