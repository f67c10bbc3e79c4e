"""An application: orders."""
