"""The demo: a simulated meter, an embedded broker and the real gateway in one process.

What it shows are the messages that came out of the broker, as any other client receives them.
"""

import asyncio
import contextlib
import itertools
import logging
import tempfile
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from pathlib import Path

from aiomqtt import Client

from kamstrup_mqtt.catalog import register_numbers
from kamstrup_mqtt.consumption import local_zone
from kamstrup_mqtt.errors import KamstrupError
from kamstrup_mqtt.gateway.config import SINGLE_METER, Config, HistoryConfig
from kamstrup_mqtt.gateway.run import run_gateway
from kamstrup_mqtt.outputs import HomeAssistantSettings, MqttSettings
from kamstrup_mqtt.polling.settings import MeterConfig
from kamstrup_mqtt.simulator import Line, SimulatedMeter, past, serve_tcp
from kamstrup_mqtt.store import History
from kamstrup_mqtt.web.settings import WebSettings

HOST = "127.0.0.1"
TOPIC = "kamstrup"
PAGE = f"{HOST}:8402"
INTERVAL_S = 5.0
_KEEP_S = 500 * 86400.0
SPEED = 60.0  # a minute of the house each second, so that one can watch its counters grow
PARAMETERS = (
    "energy", "volume", "power", "flow", "temp1", "temp2", "tempdiff",
    "maxpower_m", "maxpowerdate_m", "hourcounter", "temp1xm3", "temp2xm3",
)  # fmt: skip


async def run_demo(broker_port: int, show: Callable[[str, str], None]) -> None:
    """Run the demo until cancelled.

    Args:
        broker_port: where the embedded broker listens on this machine.
        show: called with topic and payload of each message as published.

    Raises:
        KamstrupError: the broker's port is taken, or the extra `demo` is not installed.

    """
    meter = SimulatedMeter(speed=SPEED)
    line = Line(pace=True, echo=True, turnaround_s=0.07)
    watching = Client(HOST, broker_port, identifier="kamstrup-mqtt-demo-watcher")
    async with (
        _broker(broker_port),
        serve_tcp(meter, line=line) as port,
        watching as watcher,
        asyncio.TaskGroup() as tasks,
    ):
        await watcher.subscribe(f"{TOPIC}/#")
        tasks.create_task(_show_all(watcher, show))
        tasks.create_task(_run_gateway(meter, port, broker_port))


async def _live_through_the_past(meter: SimulatedMeter, config: HistoryConfig) -> None:
    """Give the page something to show: a year by the day, and the last weeks by the hour."""
    registers = register_numbers(PARAMETERS)
    now = datetime.now(local_zone()).replace(minute=0, second=0, microsecond=0)
    recent = now - timedelta(days=40)
    readouts = itertools.chain(
        past(meter, registers, now - timedelta(days=400), recent, timedelta(days=1)),
        past(meter, registers, recent + timedelta(hours=1), now),
    )
    history = History(config.path, config.keep_s, config.max_bytes)
    await history.open()
    await history.take_in((SINGLE_METER, readout) for readout in readouts)
    await history.close()


async def _run_gateway(meter: SimulatedMeter, port: str, broker_port: int) -> None:
    meters = (MeterConfig(SINGLE_METER, port, register_numbers(PARAMETERS), INTERVAL_S, TOPIC),)
    settings = MqttSettings(host=HOST, port=broker_port, topic=TOPIC, retain=True)
    quiet = HomeAssistantSettings(discovery=False)
    with tempfile.TemporaryDirectory(prefix="kamstrup-mqtt-") as folder:
        history = HistoryConfig(Path(folder) / "history.db", _KEEP_S)
        await _live_through_the_past(meter, history)
        page = WebSettings(listen=PAGE)
        await run_gateway(Config(settings, meters, history, quiet, page))


async def _show_all(watcher: Client, show: Callable[[str, str], None]) -> None:
    async for message in watcher.messages:
        show(str(message.topic), message.payload.decode())


@contextlib.asynccontextmanager
async def _broker(port: int) -> AsyncIterator[None]:
    """The embedded broker, which accepts anybody on this machine."""
    try:
        from amqtt.broker import Broker  # noqa: PLC0415 - an extra, and only this needs it
    except ImportError as error:
        raise KamstrupError(
            "the demo needs its broker: install it with `pip install 'kamstrup-mqtt[demo]'`"
        ) from error
    logging.getLogger("amqtt").setLevel(logging.CRITICAL)
    logging.getLogger("transitions").setLevel(logging.ERROR)
    broker = Broker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"{HOST}:{port}"}},
            "plugins": {
                "amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}
            },
        }
    )
    try:
        await broker.start()
    except Exception as error:
        raise KamstrupError(
            f"the demo's broker cannot listen on {HOST}:{port}; choose another --broker-port"
        ) from error
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # the demo is over either way
            async with asyncio.timeout(1):
                await broker.shutdown()
