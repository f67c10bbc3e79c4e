"""From an OCI runtime-spec config to a `linux.program.Program`: what a child does, step by step."""
