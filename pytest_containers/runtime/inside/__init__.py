"""Jobs that run as root of the run's user namespace (see `launcher.jobs`)."""
