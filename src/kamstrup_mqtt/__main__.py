"""Lets `python -m kamstrup_mqtt` do what `kamstrup-mqtt` does."""

from kamstrup_mqtt.cli.main import main

if __name__ == "__main__":
    main()
