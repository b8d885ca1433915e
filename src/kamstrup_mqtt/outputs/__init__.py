"""Where numbers go: each output follows the history and never talks to a meter."""

from kamstrup_mqtt.outputs.mqtt import MqttOutput, MqttSettings

__all__ = ["MqttOutput", "MqttSettings"]
