"""The command line `kamstrup-mqtt`."""
