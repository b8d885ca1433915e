"""Examines the broker: reached, logged in, allowed to publish, and whether anybody listens."""

import asyncio

from kamstrup_mqtt.outputs import HomeAssistantSettings, MqttSettings
from kamstrup_mqtt.outputs.broker import BrokerError, Session, connect, is_login_refused, why
from kamstrup_mqtt.tools.doctor.finding import Finding
from kamstrup_mqtt.tools.doctor.line import Note

_REACH_S = 10.0
_BACK_S = 3.0  # for a message to come back
_PAYLOAD = "a test of `kamstrup-mqtt doctor`"


async def examine_broker(
    settings: MqttSettings, homeassistant: HomeAssistantSettings, topics: list[str], note: Note
) -> None:
    """Examine the broker, on a connection beside the one of a gateway that runs.

    Args:
        settings: of the gateway.
        homeassistant: where it announces its meters.
        topics: the base topics to publish under.
        note: takes each finding.

    """
    settings = settings.model_copy(update={"client": f"{settings.client}-doctor"})
    try:
        async with asyncio.timeout(_REACH_S), connect(settings) as session:
            note("broker", Finding.OK, f"{settings.address} is reached")
            how = "our user name and password" if settings.credentials[0] else "anybody"
            note("login", Finding.OK, f"it accepts {how}")
            for topic in topics:
                try:
                    note("topic", *await _examine_topic(session, topic))
                except BrokerError as error:  # some hang up on a topic that they forbid
                    told = f"when we tried {topic}/#: {why(error)}; see the broker's access rules"
                    note("topic", Finding.TOPIC_REFUSED, told)
                    break
    except TimeoutError:
        note(
            "broker",
            Finding.BROKER_UNREACHABLE,
            f"{settings.address} does not answer within {_REACH_S:.0f} s: see mqtt.host and port",
        )
    except (*BrokerError, ExceptionGroup) as error:
        reason = f"{settings.address}: {why(error)}"
        if is_login_refused(error):
            note("broker", Finding.OK, f"{settings.address} is reached")
            note("login", Finding.LOGIN_REFUSED, reason)
        else:
            note("broker", Finding.BROKER_UNREACHABLE, reason)
    else:
        if homeassistant.discovery:
            note("homeassistant", *await _examine_discovery(settings, homeassistant))


async def _examine_topic(session: Session, base: str) -> tuple[Finding, str]:
    """Publish under `base`, and see that it comes back."""
    topic = f"{base}/doctor"
    refused = await session.subscribe([topic])
    refusal = await session.publish(topic, _PAYLOAD)
    if refusal:
        return (
            Finding.TOPIC_REFUSED,
            f"the broker does not let us publish on {base}/#: {refusal}; see its access rules",
        )
    if refused:
        return (
            Finding.TOPIC_REFUSED,
            (
                f"the broker does not let us subscribe to {base}/#, so that {base}/read does not "
                "work: see its access rules"
            ),
        )
    try:
        async with asyncio.timeout(_BACK_S):
            async for message in session.messages():
                if str(message.topic) == topic:
                    return Finding.OK, f"what is published on {base}/# comes back"
    except TimeoutError:
        pass
    return (
        Finding.TOPIC_REFUSED,
        f"what we publish on {base}/# does not come back: see the broker's access rules for it",
    )


async def _examine_discovery(
    settings: MqttSettings, homeassistant: HomeAssistantSettings
) -> tuple[Finding, str]:
    """Whether Home Assistant listens; only version 5 of MQTT tells."""
    prefix = homeassistant.prefix
    modern = settings.model_copy(update={"version": "5"})
    listening: bool | None = None
    try:
        async with asyncio.timeout(_BACK_S), connect(modern) as session:
            listening = await session.has_listeners(f"{prefix}/device/kamstrup_doctor/config")
    except TimeoutError:
        pass
    except (*BrokerError, ExceptionGroup) as error:
        if "authorized" in str(error):
            return (
                Finding.TOPIC_REFUSED,
                (
                    f"the broker does not let us publish on {prefix}/#, as Home Assistant needs: "
                    "see its access rules, or set homeassistant: {discovery: false}"
                ),
            )
    told = {
        True: f"somebody listens to {prefix}/#",
        False: f"nobody listens to {prefix}/#: if you use Home Assistant, see its MQTT integration",
        None: "this broker does not tell whether Home Assistant listens",
    }
    return Finding.OK, told[listening]
