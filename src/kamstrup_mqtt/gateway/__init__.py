"""What runs, when, and with what: configuration, schedule, supervision."""
