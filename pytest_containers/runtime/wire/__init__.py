"""The protocol between the processes of a run: frames, operations, the event loop."""
