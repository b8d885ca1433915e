"""When a meter is read, what it is asked for, and what of its answers is believed."""
