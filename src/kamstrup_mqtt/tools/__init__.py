"""What helps people: the doctor, the setup, the demo."""
