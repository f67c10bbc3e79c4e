"""Images from Dockerfiles: parse, plan, run, keep."""
