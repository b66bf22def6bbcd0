"""What passes between the steps: frozen dataclasses of NumPy arrays."""
