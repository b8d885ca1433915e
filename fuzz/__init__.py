"""Fuzzing of all that takes bytes from outside: the targets, and what they begin with."""
