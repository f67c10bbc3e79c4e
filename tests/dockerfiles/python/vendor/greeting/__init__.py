TEXT = "hello from a venv"
