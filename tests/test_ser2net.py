"""Real ser2net in front of a simulated meter on a pseudo terminal."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kamstrup_mqtt import PortError, open_meter
from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS
from kamstrup_mqtt.simulator import Fault, Line, SimulatedMeter, serve_pty

from .conftest import Server, free_port, server_program

Start = Callable[..., Server]


async def test_a_meter_behind_ser2net(ser2net: Start) -> None:
    meter = SimulatedMeter("403", faults={Fault.GARBAGE_BEFORE: 0.3}, seed=1)
    async with serve_pty(meter, Line(echo=True, turnaround_s=0.05)) as device:
        server = await asyncio.to_thread(ser2net, device)
        async with open_meter(f"socket://127.0.0.1:{server.port}") as opened:
            readout = await opened.read(CLASSIC_PARAMETERS)
            assert len(readout) == 31
            assert readout["energy"].unit == "MWh"


async def test_ser2net_restarts_between_readings(ser2net: Start) -> None:
    async with serve_pty(SimulatedMeter()) as device:
        server = await asyncio.to_thread(ser2net, device)
        async with open_meter(f"socket://127.0.0.1:{server.port}") as opened:
            assert len(await opened.read(["energy"])) == 1
            await asyncio.to_thread(server.stop)
            with pytest.raises(PortError, match="refused"):
                await opened.read(["energy"])
            await asyncio.to_thread(server.start)
            await asyncio.sleep(0.5)
            assert len(await opened.read(["energy"])) == 1


async def test_rfc2217_fails_in_words_where_there_is_no_real_uart(ser2net: Start) -> None:
    # ser2net cannot set two stop bits on a pseudo terminal and never confirms them: so far, and
    # no farther, can this be tried without hardware.
    async with serve_pty(SimulatedMeter()) as device:
        server = await asyncio.to_thread(ser2net, device, "telnet(rfc2217)")
        url = f"rfc2217://127.0.0.1:{server.port}"
        with pytest.raises(PortError, match=url):
            async with open_meter(url):
                pass


@contextlib.contextmanager
def running(command: list[str], port: int) -> Iterator[str]:
    server = Server(command, port)
    server.start()
    time.sleep(0.5)  # see the fixture
    try:
        yield f"socket://127.0.0.1:{port}"
    finally:
        server.stop()


async def test_the_configuration_in_the_docs_lets_a_gateway_come_back(tmp_path: Path) -> None:
    """Also while ser2net still holds the connection that the gateway lost."""
    page = Path(__file__).parent.parent / "docs" / "hardware.md"
    port = free_port()
    text = page.read_text()
    start = text.index("connection: &meter")
    text = text[start : text.index("```", start)]
    async with serve_pty(SimulatedMeter()) as device:
        config = tmp_path / "ser2net.yaml"
        text = text.replace("tcp,4000", f"tcp,127.0.0.1,{port}").replace("/dev/ttyUSB0", device)
        config.write_text(text)
        command = [server_program("ser2net"), "-n", "-c", str(config)]
        with running(command, port) as url:
            _, lost = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.sleep(0.5)
            async with open_meter(url) as opened:
                assert len(await opened.read("energy")) == 1
            lost.close()


async def test_a_plain_bridge_as_an_esp_is_one() -> None:
    port = free_port()
    async with serve_pty(SimulatedMeter(), Line(echo=True)) as device:
        bridge = f"TCP-LISTEN:{port},bind=127.0.0.1,reuseaddr,fork"
        command = [server_program("socat"), bridge, f"{device},rawer"]
        with running(command, port) as url:
            async with open_meter(url) as opened:
                assert len(await opened.read(CLASSIC_PARAMETERS)) == 31
