"""What runs as root of the run's user namespace, in a bare interpreter."""
