"""The page as a browser shows it, the API as programs use it, and who is kept out."""

import asyncio
import contextlib
import json
import re
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import pytest
from playwright.async_api import Page, async_playwright
from prometheus_client.parser import text_string_to_metric_families

from kamstrup_mqtt import MeterIdentity, Reading, Readout, web
from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.consumption import Archive
from kamstrup_mqtt.gateway.config import ConfigError, load_config
from kamstrup_mqtt.readout.status import LinkState
from kamstrup_mqtt.simulator import DEFAULT_SERIAL, SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import History
from kamstrup_mqtt.web.access import Guard, Verdict, hash_password, is_hash, is_password
from kamstrup_mqtt.web.figures import efficiency
from kamstrup_mqtt.web.metrics import exposition
from kamstrup_mqtt.web.peers import is_local, parse_address

from .conftest import Server, free_port, kamstrup_mqtt, server_program
from .gateway import log_until, stop

Background = Callable[..., subprocess.Popen[str]]
PASSWORD = "correct horse"
NOW = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)


def config_of(folder: Path, meter: str, web: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(
        f"mqtt: {{host: 127.0.0.1, port: {free_port()}}}\n"
        f"serial_device: {{com_port: '{meter}'}}\n"
        "kamstrup:\n"
        "  parameters: [energy, volume, power, flow, temp1, temp2, temp1xm3, temp2xm3, info_code]\n"
        "  poll_interval: 2s\n"
        f"web: {web}\n"
    )
    path.chmod(0o600)
    return path


async def fill(path: Path, days: int = 70) -> list[Readout]:
    """Hourly readouts of the past, to the simulated meter's counter now."""
    history = History(path.with_suffix(".history.db"), 1e9)
    await history.open()
    made = []
    for number in range(24 * days, -1, -1):
        values = {
            60: (Decimal("227.440") - number * Decimal("0.017"), "energy", "GJ"),
            68: (Decimal("2131.930") - number * Decimal("0.125"), "volume", "m³"),
            86: (Decimal("67.50"), "temp1", "°C"),
            97: (Decimal(150230) - number * 8, "temp1xm3", "m³·°C"),
            110: (Decimal(74410) - number * 4, "temp2xm3", "m³·°C"),
        }
        readings = {
            key: Reading(key, name, value, unit) for key, (value, name, unit) in values.items()
        }
        identity = MeterIdentity(str(DEFAULT_SERIAL), "0402", "A1", None)
        made.append(Readout(identity, NOW - timedelta(hours=number), readings, {}))
    await history.take_in(("meter", one) for one in made)
    await history.close()
    return made


@asynccontextmanager
async def running(
    tmp_path: Path, background: Background, web: str = "{{listen: '127.0.0.1:{port}'}}",
    *, days: int = 0,
) -> AsyncIterator[str]:  # fmt: skip
    """The address of the page of a real gateway that reads a simulated meter."""
    port = free_port()
    async with serve_tcp(SimulatedMeter(speed=600)) as meter:
        config = config_of(tmp_path, meter, web.format(port=port))
        if days:
            await fill(config, days)
        gateway = background("run", "-c", str(config))
        if "The page is at" not in await log_until(gateway, "answers, type"):
            await log_until(gateway, "The page is at")
        yield f"http://127.0.0.1:{port}/"
        log = await asyncio.to_thread(stop, gateway)
        assert "Traceback" not in log


@pytest.fixture
async def page() -> AsyncIterator[Callable[..., object]]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=server_program("chromium"), args=["--no-sandbox"]
        )
        faults: list[str] = []

        async def open_page(url: str, **options: object) -> Page:
            context = await browser.new_context(**options)  # type: ignore[arg-type]
            made = await context.new_page()
            made.on(
                "console", lambda note: faults.append(note.text) if note.type == "error" else None
            )
            made.on("pageerror", lambda error: faults.append(str(error)))
            made.on(
                "request", lambda one: None if one.url.startswith(url) else faults.append(one.url)
            )
            await made.goto(url)
            return made

        yield open_page
        await browser.close()
        assert faults == []


PIXELS = """id => {
  const canvas = document.querySelector(`#${id} canvas`);
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  let drawn = 0;
  for (let i = 3; i < data.length; i += 4) drawn += data[i] > 0;
  return drawn;
}"""


async def test_a_browser_shows_charts_and_what_is_new_without_a_reload(
    tmp_path: Path, background: Background, page: Callable[..., object]
) -> None:
    async with running(tmp_path, background, days=70) as url:
        shown: Page = await page(url, viewport={"width": 1100, "height": 900})  # type: ignore[misc]
        await shown.wait_for_selector("#used-chart canvas")
        await shown.wait_for_selector("#course-chart canvas")
        assert await shown.evaluate(PIXELS, "used-chart") > 1000
        assert await shown.evaluate(PIXELS, "course-chart") > 1000
        assert "°C →" in await shown.inner_text("#efficiency")
        assert (await shown.inner_text("#state-meter")) == "answers"
        before = await shown.inner_text("#state-counter")
        assert before.endswith(" GJ")
        await shown.wait_for_function(
            "text => document.getElementById('state-counter').textContent !== text",
            arg=before, timeout=20_000,
        )  # fmt: skip
        await shown.click("text=Year")
        await shown.wait_for_function(
            "() => document.querySelectorAll('#used-table tbody tr').length === 12"
        )
        await shown.select_option("#compare", "year")
        await shown.click("#back")
        assert str(NOW.year - 1) in await shown.inner_text("#span")
        await shown.select_option("#parameter", "power")
        await shown.click("text=7 days")
        await shown.close()


async def test_a_phone_in_the_dark_in_danish(
    tmp_path: Path, background: Background, page: Callable[..., object]
) -> None:
    async with running(tmp_path, background, days=2) as url:
        shown: Page = await page(  # type: ignore[misc]
            url, viewport={"width": 360, "height": 740}, color_scheme="dark", locale="da-DK",
            has_touch=True, is_mobile=True,
        )  # fmt: skip
        await shown.wait_for_selector("#used-chart canvas")
        assert await shown.title() == "Varmemåler"
        assert await shown.get_attribute("html", "lang") == "da"
        assert await shown.inner_text("#state-meter") == "svarer"
        assert "," in await shown.inner_text("#state-counter")
        assert await shown.evaluate("document.documentElement.scrollWidth") <= 360
        colour = await shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert colour == "rgb(18, 24, 28)"
        unnamed = await shown.evaluate(
            "[...document.querySelectorAll('button, select, input')]"
            ".filter(one => !(one.textContent || one.ariaLabel || one.labels?.length)).length"
        )
        assert unnamed == 0
        await shown.close()


async def test_the_browser_asks_for_the_password(
    tmp_path: Path, background: Background, page: Callable[..., object]
) -> None:
    web = "{{listen: '0.0.0.0:{port}', password: '" + hash_password(PASSWORD) + "'}}"
    async with running(tmp_path, background, web, days=2) as url:
        shown: Page = await page(  # type: ignore[misc]
            url, http_credentials={"username": "anybody", "password": PASSWORD}
        )
        await shown.wait_for_selector("#used-chart canvas")
        read = "document.getElementById('state-read').textContent"
        await shown.wait_for_function(f"() => {read}.length > 5")
        await shown.close()


def other_address() -> str:
    """An address of this machine that is not local."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            pytest.skip("this machine has no network")
        return str(probe.getsockname()[0])


async def test_who_does_not_know_the_password_sees_nothing(
    tmp_path: Path, background: Background
) -> None:
    web = "{{listen: '0.0.0.0:{port}', password: '" + hash_password(PASSWORD) + "'}}"
    async with running(tmp_path, background, web) as url, httpx.AsyncClient() as client:
        outside = url.replace("127.0.0.1", other_address())
        for base in (url, outside):
            for path in (
                "",
                "api/meters",
                "metrics",
                "healthz",
                "events",
                "static/app.js",
                "nothing",
            ):
                assert (await client.get(base + path)).status_code == 401
        token = {"Authorization": f"Bearer {PASSWORD}"}
        assert (await client.get(f"{outside}api/meters", headers=token)).status_code == 200
        for _ in range(5):
            answer = await client.get(outside, auth=("x", "wrong"))
            assert answer.status_code == 401
        assert (await client.get(outside, headers=token)).status_code == 429
        assert (await client.get(url, headers=token)).status_code == 200  # another address


async def test_the_api(tmp_path: Path, background: Background) -> None:
    async with running(tmp_path, background, days=70) as url, httpx.AsyncClient() as client:

        async def get(path: str, status: int = 200) -> Any:
            answer = await client.get(f"{url}api/{path}")
            assert answer.status_code == status, answer.text
            return answer.json()

        meters = await get("meters")
        (meter,) = meters["meters"]
        assert (meter["serial"], meter["state"]) == (str(DEFAULT_SERIAL), "ok")
        base = f"meters/{DEFAULT_SERIAL}"
        latest = await get(f"{base}/latest")
        assert latest["values"]["energy"]["unit"] == "GJ"
        days = await get(f"{base}/series?by=day&from={NOW - timedelta(days=9):%Y-%m-%d}")
        values = [one["value"] for one in days["points"] if one["complete"]]
        assert len(values) >= 7
        assert set(values) == {"0.408"}
        hours = await get(
            f"{base}/series?parameter=temp1&by=hour&from={NOW - timedelta(days=3):%Y-%m-%d}"
        )
        assert hours["kind"] == "mean"
        raw = await get(f"{base}/series?parameter=86&by=reading")
        assert raw["kind"] == "value"
        tokyo = await get(f"{base}/series?parameter=&to=&by=day&zone=Asia/Tokyo&from=")
        assert all(point["time"].endswith("T00:00:00+09:00") for point in tokyo["points"])
        cooling = await get(f"{base}/efficiency?by=day")
        assert cooling["points"][1]["cooling"] == "32.00"
        for path, status in (
            ("meters/5/latest", 404), ("nothing", 404), (f"{base}/series?parameter=enrgy", 400),
            (f"{base}/series?by=moon", 400), (f"{base}/series?from=soon", 400),
            (f"{base}/series?zone=Mars/Base", 400),
            (f"{base}/series?from=2026-02-01&to=2026-01-01", 400),
            (f"{base}/series?by=hour&from=2020-01-01", 400), (f"{base}/efficiency?by=reading", 400),
        ):  # fmt: skip
            assert (await get(path, status))["error"]
        assert (await client.post(f"{url}api/meters")).status_code == 405


async def test_metrics_are_what_prometheus_reads(tmp_path: Path, background: Background) -> None:
    async with running(tmp_path, background) as url, httpx.AsyncClient() as client:
        while "kamstrup_meter_energy" not in (answer := await client.get(f"{url}metrics")).text:
            await asyncio.sleep(0.1)  # it is told that the meter answers before that is kept
        health = await client.get(f"{url}healthz")
    families = {one.name: one for one in text_string_to_metric_families(answer.text)}
    (energy,) = families["kamstrup_meter_energy_joules"].samples
    assert energy.labels == {"meter": "meter", "serial": str(DEFAULT_SERIAL)}
    assert energy.value > 227e9
    assert families["kamstrup_telegrams"].type == "counter"
    assert families["kamstrup_broker_connected"].samples[0].value == 0
    assert families["kamstrup_backlog_readouts"].samples[0].value >= 1
    for name, family in families.items():
        assert name == name.lower()
        assert family.documentation
        assert not name.endswith(("_total", "_count", "_sum"))
        assert all(sample.name.endswith("_total") for sample in family.samples) is (
            family.type == "counter"
        )
    assert health.status_code == 503
    assert health.json()["complaints"] == ["the broker is not connected"]


async def test_large_and_strange_requests(tmp_path: Path, background: Background) -> None:
    async with running(tmp_path, background) as url, httpx.AsyncClient() as client:
        port = int(url.rpartition(":")[2].strip("/"))

        async def send(data: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data)
            async with asyncio.timeout(60):
                answer = await reader.read()
            writer.close()
            return answer

        large = b"y" * 20_000  # in one piece: an answer to half of a request may get lost
        assert b" 431 " in await send(
            b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nX: " + large + b"\r\n\r\n"
        )
        assert b" 431 " in await send(
            b"GET /?" + large + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert b" 400 " in await send(b"\x16\x03\x01 nonsense\r\n\r\n")
        for path in (
            "/static/../app.py",
            "/static/%2e%2e/app.py",
            "/static/..%2f..%2fapp.py",
            "/static/",
        ):
            answer = await send(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            assert answer.startswith(b"HTTP/1.1 404")
        headers = (await client.get(url)).headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers
        assert "set-cookie" not in headers


async def test_a_port_that_is_taken_stops_nothing(tmp_path: Path, background: Background) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        async with serve_tcp(SimulatedMeter()) as meter:
            config = config_of(tmp_path, meter, f"{{listen: '127.0.0.1:{port}'}}")
            gateway = background("run", "-c", str(config))
            log = await log_until(gateway, "answers, type")
            log += await asyncio.to_thread(stop, gateway)
    assert f"The page cannot listen on 127.0.0.1:{port}" in log


async def test_an_open_event_stream_does_not_hold_the_end(
    tmp_path: Path, background: Background
) -> None:
    async with httpx.AsyncClient() as client:
        async with running(tmp_path, background) as url:
            request = client.build_request("GET", f"{url}events")
            answer = await client.send(request, stream=True)
            lines = answer.aiter_lines()
            while not (line := await anext(lines)).startswith("data: "):
                pass
            assert json.loads(line[6:])["name"] == "meter"
        await answer.aclose()  # the gateway has ended cleanly by now


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ("{listen: '0.0.0.0:8402'}", "set web.password"),
        ("{listen: '[::]:8402'}", "set web.password"),
        ("{listen: 8402}", "no address and port"),
        ("{listen: '127.0.0.1:99999'}", "web.listen"),
        ("{password: secret}", "kamstrup-mqtt password"),
        ("{prices: [{since: 2026-01-01, price: much, per: GJ}]}", "web.prices"),
    ],
)
def test_a_page_that_is_not_safe_is_no_configuration(tmp_path: Path, web: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(config_of(tmp_path, "/dev/ttyUSB0", web), {})
    assert "secret" not in str(caught.value)


def test_costs_follow_the_price_of_the_day(tmp_path: Path) -> None:
    from kamstrup_mqtt.consumption import Price
    from kamstrup_mqtt.web.figures import series

    path = config_of(tmp_path, "/dev/ttyUSB0", "{}")
    asyncio.run(fill(path, 9))
    middle = (NOW - timedelta(days=4)).date()
    prices = [
        Price(since=middle, price=Decimal(50), per="GJ"),
        Price(since=middle - timedelta(days=99), price=Decimal("0.10"), per="kWh"),
    ]
    with Archive(path.with_suffix(".history.db")) as archive:
        begin = (NOW - timedelta(days=6)).replace(hour=0)
        found = series(archive, "meter", 60, begin, NOW, by="day", prices=prices)
    points: list[dict[str, str]] = found["points"]  # type: ignore[assignment]
    assert [points[0]["cost"], points[3]["cost"]] == ["11.33", "20.40"]  # of 0.408 GJ, 113.33 kWh


@pytest.fixture
def hashed() -> str:
    done = kamstrup_mqtt("password", stdin=f"{PASSWORD}\n")
    assert done.returncode == 0
    return done.stdout.strip()


async def test_passwords(hashed: str) -> None:
    assert is_hash(hashed)
    assert PASSWORD not in hashed
    assert is_password(PASSWORD, hashed)
    assert not is_password("wrong", hashed)
    assert hash_password(PASSWORD) != hashed  # salted
    assert kamstrup_mqtt("password", stdin="short\n").returncode == 2
    for text in ("", "secret", "scrypt:16384:8:1:zz:00", "scrypt:3:8:1:00:00", "md5:1:1:1:00:00"):
        assert not is_hash(text)
    guard, here = Guard(hashed), parse_address("192.0.2.1")
    for wrong in (None, "", "Basic %%%", "Basic " + "a" * 9, "Digest x", None):
        assert await guard.check(wrong, here) is Verdict.REFUSED  # and nothing was guessed
    assert await guard.check(f"bearer {PASSWORD}", here) is Verdict.ADMITTED


def test_what_is_local() -> None:
    assert all(map(is_local, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_local, ("0.0.0.0", "::", "10.0.0.5", "example.org", "")))


async def test_the_api_keeps_to_its_description(tmp_path: Path, background: Background) -> None:
    """What schemathesis thinks of it; times that are valid and in the wrong order are refused."""
    async with running(tmp_path, background, days=3) as url:
        done = await asyncio.to_thread(
            subprocess.run,
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"{url}api/openapi.json",
                "--exclude-path", "/events", "--exclude-path", "/healthz",
                "--max-examples", "15", "--seed", "1", "--no-color",
                "--exclude-checks", "positive_data_acceptance",
            ],
            capture_output=True, text=True, check=False, timeout=100, cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 0, done.stdout


async def test_heat_per_degree_day(
    mosquitto: Callable[..., Server], tmp_path: Path, background: Background
) -> None:
    broker = await asyncio.to_thread(mosquitto)
    web = f"{{listen: '127.0.0.1:{free_port()}', outdoor_topic: house/outside}}"
    async with serve_tcp(SimulatedMeter()) as meter:
        config = config_of(tmp_path, meter, web)
        text = re.sub(r"port: \d+}", f"port: {broker.port}}}", config.read_text(), count=1)
        config.write_text(text)
        await fill(config, 5)
        gateway = background("run", "-c", str(config))
        await log_until(gateway, "Connected to broker")
        await asyncio.sleep(0.5)
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.publish("house/outside", "cold")
            await client.publish("house/outside", "6.5")
        log = await log_until(gateway, "no temperature comes on house/outside")
        await asyncio.sleep(0.5)
        log += await asyncio.to_thread(stop, gateway)
    with contextlib.closing(sqlite3.connect(config.with_suffix(".history.db"))) as database:
        assert database.execute("SELECT total FROM outdoor").fetchall() == [("6.5",)]
    history = History(config.with_suffix(".history.db"), 1e9)
    await history.open()
    begin = (NOW - timedelta(days=3)).replace(hour=0)
    for hour in range(48):  # the first day at 3 degrees, the second at 20
        outside = Decimal(3 if hour < 24 else 20)
        await history.note_outdoor(outside, begin + timedelta(hours=hour))
    await history.close()
    with Archive(config.with_suffix(".history.db")) as archive:
        days = archive.degree_days(begin, begin + timedelta(days=3), "day")
        assert days == [15, 0, None]
        found: Any = efficiency(archive, "meter", begin, begin + timedelta(days=3), "day")
    assert found["points"][0]["degree_days"] == "15.0"
    assert found["points"][0]["heat_per_degree_day"] == "0.027"  # of 0.408 GJ
    assert "heat_per_degree_day" not in found["points"][1]


async def test_behind_a_proxy_the_client_counts(tmp_path: Path, background: Background) -> None:
    """One that guesses behind a trusted proxy does not lock all others out."""
    web = (
        "{{listen: '127.0.0.1:{port}', trusted_proxies: [127.0.0.1], password: '"
        + hash_password(PASSWORD) + "'}}"
    )  # fmt: skip
    async with running(tmp_path, background, web) as url, httpx.AsyncClient() as client:

        async def ask(word: str, forwarded: str) -> int:
            headers = {"Authorization": f"Bearer {word}", "X-Forwarded-For": forwarded}
            return (await client.get(f"{url}healthz", headers=headers)).status_code

        assert [await ask("wrong", "9.9.9.9, 192.0.2.7") for _ in range(6)] == [401] * 5 + [429]
        assert await ask(PASSWORD, "192.0.2.7") == 429
        assert await ask(PASSWORD, "192.0.2.8") == 503  # in, and told that there is no broker


@asynccontextmanager
async def below(prefix: str, url: str) -> AsyncIterator[str]:
    """A reverse proxy that serves the page below a path, as Home Assistant's ingress does."""
    port = int(url.rpartition(":")[2].strip("/"))

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            line, _, rest = head.partition(b"\r\n")
            assert line.startswith(b"GET " + prefix.encode()), line
            upstream, onward = await asyncio.open_connection("127.0.0.1", port)
            line = line.replace(prefix.encode(), b"/", 1)
            onward.write(line + b"\r\nConnection: close\r\n" + rest)
            while data := await upstream.read(9999):
                writer.write(data)
                await writer.drain()
            onward.close()
        writer.close()

    server = await asyncio.start_server(forward, "127.0.0.1", 0)
    yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{prefix}"
    server.close()


async def test_the_page_works_below_a_path(
    tmp_path: Path, background: Background, page: Callable[..., object]
) -> None:
    async with (
        running(tmp_path, background, days=2) as url,
        below("/api/hassio_ingress/x/", url) as shown_at,
    ):
        shown: Page = await page(shown_at)  # type: ignore[misc]
        await shown.wait_for_selector("#course-chart canvas")
        await shown.wait_for_function(
            "document.getElementById('state-read').textContent.length > 5"
        )
        await shown.close()


def test_the_names_of_all_metrics_keep_to_the_rules_of_prometheus() -> None:
    """Those of `promtool check metrics`: base units, no abbreviations, no types in names."""
    identity = MeterIdentity("1")
    readings = {
        one.number: Reading(one.number, one.name, Decimal("1.0"), unit)
        for one in REGISTERS.values()
        for unit in one.units or ("",)
    }
    text = exposition({"m": Readout(identity, NOW, readings, {})}, {}, connected=True, backlog=0)
    names = [one.name for one in text_string_to_metric_families(text)]
    assert len(names) > 80
    short = {"s", "ms", "us", "ns", "sec", "b", "kb", "mb", "gb", "tb", "pb", "m", "h", "d"}
    others = {"minutes", "hours", "days", "weeks", "calories", "kwh", "gj", "gauge", "counter"}
    for name in names:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert not (short | others) & set(name.split("_")), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_total"))
    assert not any("serial" in name or "customer" in name for name in names)


def test_the_texts_are_complete_in_every_language() -> None:
    folder = Path(web.__file__).parent / "static"
    texts = json.loads((folder / "texts.json").read_text())
    assert set(texts) == {"en", "nl", "da", "de"}
    page, script = ((folder / name).read_text() for name in ("index.html", "app.js"))
    used = set(re.findall(r'data-(?:text|label)="(\w+)"', page)) | set(
        re.findall(r'text\("(\w+)"\)', script)
    )
    used |= {f"state_{state}" for state in LinkState}
    for words in texts.values():
        assert set(words) == set(texts["en"])
        assert used <= set(words)
        assert all(words.values())


async def test_a_page_that_fails_is_one_line_of_the_log(
    tmp_path: Path, background: Background
) -> None:
    """As when the file of the history is taken away: reading goes on."""
    port = free_port()
    async with serve_tcp(SimulatedMeter()) as meter, httpx.AsyncClient() as client:
        config = config_of(tmp_path, meter, f"{{listen: '127.0.0.1:{port}'}}")
        gateway = background("run", "-c", str(config))
        await log_until(gateway, "answers, type")
        path = config.with_suffix(".history.db")
        path.rename(tmp_path / "away")
        path.mkdir()
        answer = await client.get(f"http://127.0.0.1:{port}/api/meters/{DEFAULT_SERIAL}/series")
        assert answer.status_code in (400, 404, 500)
        assert answer.json()["error"]
        path.rmdir()
        (tmp_path / "away").rename(path)
        assert (await client.get(f"http://127.0.0.1:{port}/api/meters")).status_code == 200
        log = await asyncio.to_thread(stop, gateway)
    assert "Traceback" not in log
