"""What a program can see and do, here and in Docker, Podman and bubblewrap."""
