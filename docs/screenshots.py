"""Makes the screenshots of the README: two simulated houses, a year of them, a real browser."""

import asyncio
import itertools
import os
import subprocess
import sys
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

from playwright.async_api import async_playwright

from kamstrup_mqtt.catalog import register_numbers
from kamstrup_mqtt.consumption import local_zone
from kamstrup_mqtt.simulator import SimulatedMeter, past, serve_tcp
from kamstrup_mqtt.store import History

PORT = 8499
BROKER = 8498
PARAMETERS = ("energy", "volume", "power", "flow", "temp1", "temp2", "temp1xm3", "temp2xm3")
CONFIG = """
mqtt: {{host: 127.0.0.1, port: {broker}}}
meters:
- {{name: left, port: '{left}', parameters: [{parameters}, info_code], poll_interval: 2s}}
- {{name: right, port: '{right}', parameters: [{parameters}, info_code], poll_interval: 2s}}
web:
  listen: 127.0.0.1:{page}
  prices: [{{since: 2020-01-01, price: 38.50, per: GJ}}]
"""
VIEWS = {
    "page-desktop": {"viewport": {"width": 1000, "height": 700}},
    "page-dark": {"viewport": {"width": 1000, "height": 700}, "color_scheme": "dark"},
    "page-phone": {"viewport": {"width": 390, "height": 844}, "locale": "nl-NL"},
}


async def main() -> None:
    """Make them all, in docs/images."""
    now = datetime.now(local_zone()).replace(minute=0, second=0, microsecond=0)
    meters = {"left": SimulatedMeter("402", 71343479), "right": SimulatedMeter("603", 80012345)}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "config.yaml")
        history = History(config.with_suffix(".history.db"), 1e9)
        await history.open()
        for name, meter in meters.items():
            registers = register_numbers(PARAMETERS)
            begin, recent = now - timedelta(days=400), now - timedelta(days=3)
            readouts = itertools.chain(
                past(meter, registers, begin, recent),
                past(meter, registers, recent, now, timedelta(minutes=5)),
            )
            await history.take_in((name, readout) for readout in readouts)
        await history.close()
        async with serve_tcp(meters["left"]) as left, serve_tcp(meters["right"]) as right:
            config.write_text(
                CONFIG.format(
                    left=left,
                    right=right,
                    page=PORT,
                    broker=BROKER,
                    parameters=", ".join(PARAMETERS),
                ),
                encoding="utf-8",
            )
            broker = await asyncio.create_subprocess_exec(
                "mosquitto", "-p", str(BROKER), stderr=subprocess.DEVNULL,
                env=os.environ | {"PATH": os.environ["PATH"] + ":/usr/sbin"},
            )  # fmt: skip
            gateway = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "kamstrup_mqtt", "run", "-c", str(config),
                stderr=subprocess.DEVNULL,
            )  # fmt: skip
            await asyncio.sleep(5)
            await _shoot()
            gateway.terminate()
            await gateway.wait()
            broker.terminate()
            await broker.wait()


async def _shoot() -> None:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        for name, options in VIEWS.items():
            context = await browser.new_context(**options)  # type: ignore[arg-type]
            page = await context.new_page()
            await page.goto(f"http://127.0.0.1:{PORT}/")
            await page.wait_for_selector("#course-chart canvas")
            await page.wait_for_timeout(1500)
            target = Path(__file__).parent / "images" / f"{name}.png"
            await page.screenshot(path=target, full_page=True)
            print(target.name)
        await browser.close()


asyncio.run(main())
