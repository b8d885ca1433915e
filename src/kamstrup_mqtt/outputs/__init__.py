"""Where numbers go: each output follows the boards and never talks to a meter."""

from kamstrup_mqtt.outputs.broker import MqttSettings
from kamstrup_mqtt.outputs.homeassistant import HomeAssistantSettings
from kamstrup_mqtt.outputs.mqtt import LONGEST_SUBTOPIC, MqttOutput, Publication

__all__ = [
    "LONGEST_SUBTOPIC",
    "HomeAssistantSettings",
    "MqttOutput",
    "MqttSettings",
    "Publication",
]
