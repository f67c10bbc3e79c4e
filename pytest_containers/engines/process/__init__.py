"""The process engine (`engine`): confined processes, for places where namespaces are denied."""

LABEL = "process engine: files confined, processes visible"
"""The engine in the header of a test run and in reports."""
