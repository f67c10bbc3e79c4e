"""The `host:` image: this machine's own programs."""
