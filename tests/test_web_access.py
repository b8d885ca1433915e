"""Who may see the page and under which name, how often one may guess, and how slow one may be."""

import asyncio
import contextlib
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from kamstrup_mqtt.gateway.config import ConfigError, load_config
from kamstrup_mqtt.simulator import SimulatedMeter, serve_tcp
from kamstrup_mqtt.store import Board, History
from kamstrup_mqtt.web.access import Guard, Verdict, hash_password
from kamstrup_mqtt.web.app import House, make_app
from kamstrup_mqtt.web.connection import Connection
from kamstrup_mqtt.web.peers import Networks, client_of, parse_address, parse_network
from kamstrup_mqtt.web.settings import WebSettings

from .conftest import free_port
from .gateway import log_until, stop
from .test_web import PASSWORD, Background, config_of, other_address, running
from .virtual import virtual

EVIL = "evil.example"
PATHS = ("", "api/meters", "events", "metrics", "healthz", "static/app.js", "nothing")


def behind(source: str) -> httpx.AsyncClient:
    """A client with another address of this machine."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(
        transport=httpx.AsyncHTTPTransport(local_address=source, limits=limits), timeout=60
    )


def with_password(**keys: str) -> str:
    """The section `web` with a password; braces are doubled for `running`."""
    more = "".join(f", {key}: {value}" for key, value in keys.items())
    return "{{listen: '0.0.0.0:{port}', password: '" + hash_password(PASSWORD) + f"'{more}}}}}"


async def head_of(url: str, path: str, **headers: str) -> tuple[int, str]:
    """Status and, unless all is fine, the text of an answer."""
    async with (
        httpx.AsyncClient() as client,
        client.stream("GET", url + path, headers=headers) as answer,
    ):
        if answer.status_code == 200:
            return 200, ""
        return answer.status_code, (await answer.aread()).decode()


async def test_a_name_of_others_brings_nothing(tmp_path: Path, background: Background) -> None:
    """DNS rebinding: a web site leads its own name here, and would read what comes back."""
    web = "{{listen: '127.0.0.1:{port}', hosts: [Heat.Example.org., käse.local]}}"
    async with running(tmp_path, background, web) as url:
        for path in PATHS:
            for name in (EVIL, f"{EVIL}:8402", "localhost.evil.example", "127.0.0.1.evil.example"):
                status, said = await head_of(url, path, Host=name)
                assert status == 421
                assert f"'{name}'" in said
                assert "web.hosts" in said
                assert "\n" not in said
        for name in (
            "localhost", "LOCALHOST:8402", "localhost.", "127.0.0.1", "127.0.0.1:1", "10.1.2.3",
            "[::1]", "[::1]:8402", "[fd00::5]:80", "heat.example.org", "HEAT.example.ORG.:443",
            "xn--kse-qla.local", subprocess.getoutput("hostname"),
        ):  # fmt: skip
            assert await head_of(url, "api/meters", Host=name) == (200, ""), name
        forwarded = {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"}
        assert (await head_of(url, "api/meters", Host=EVIL, **forwarded))[0] == 421
        for head in (
            b"GET / HTTP/1.0\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: localhost\r\nHost: localhost\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: ::1\r\n\r\n",
            b"GET / HTTP/1.0\r\nHost: localhost@evil.example\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", httpx.URL(url).port)
            writer.write(head)
            assert (await reader.readline()).split()[1] in (b"400", b"421"), head
            writer.close()


async def test_with_a_password_every_name_is_fine(tmp_path: Path, background: Background) -> None:
    async with running(tmp_path, background, with_password()) as url:
        token = {"Authorization": f"Bearer {PASSWORD}"}
        assert (await head_of(url, "api/meters", Host=EVIL, **token))[0] == 200
        assert (await head_of(url, "api/meters", Host=EVIL))[0] == 401


async def test_a_password_that_is_no_text_is_just_wrong(
    tmp_path: Path, background: Background
) -> None:
    async with running(tmp_path, background, with_password()) as url, behind("127.0.0.1") as client:
        for given in (b"Basic \xff\xfe", b"Basic =", b"Basic", b"Bearer \xff", b"\xff"):
            answer = await client.get(url, headers={b"Authorization": given})
            assert answer.status_code in (401, 429), given


async def test_who_is_allowed_needs_no_password(tmp_path: Path, background: Background) -> None:
    """Under whatever name: names are checked only where there is no password."""
    web = with_password(allow="[127.0.0.2, 127.0.1.0/24]", hosts="[heat.example.org]")
    async with running(tmp_path, background, web) as url:
        for source, headers, status in (
            ("127.0.0.2", {}, 200),
            ("127.0.1.77", {}, 200),
            ("127.0.0.2", {"Host": "heat.example.org"}, 200),
            ("127.0.0.2", {"Host": EVIL}, 200),
            ("127.0.0.2", {"Host": EVIL, "Authorization": f"Bearer {PASSWORD}"}, 200),
            ("127.0.0.1", {}, 401),
            ("127.0.0.1", {"X-Forwarded-For": "127.0.0.2", "X-Real-IP": "127.0.0.2"}, 401),
        ):
            async with behind(source) as client:
                answer = await client.get(f"{url}api/meters", headers=headers)
                assert answer.status_code == status, (source, headers)


async def test_without_a_password_nobody_else_gets_in(
    tmp_path: Path, background: Background
) -> None:
    web = "{{listen: '0.0.0.0:{port}', allow: '127.0.0.2, 127.0.0.3'}}"
    async with running(tmp_path, background, web) as url:
        for base in (url, url.replace("127.0.0.1", other_address())):
            for path in PATHS:
                status, said = await head_of(base, path)
                assert status == 403
                assert "web.allow" in said
        async with behind("127.0.0.2") as client:
            assert (await client.get(f"{url}api/meters")).status_code == 200
            answer = await client.get(f"{url}api/meters", headers={"Host": EVIL})
            assert answer.status_code == 421


async def test_any_name_where_that_is_wanted(tmp_path: Path, background: Background) -> None:
    """As for Home Assistant's ingress, which passes on whatever name the browser asked for."""
    web = "{{listen: '0.0.0.0:{port}', allow: [127.0.0.1], hosts: ['*']}}"
    async with running(tmp_path, background, web) as url:
        assert (await head_of(url, "api/meters", Host="homeassistant.local:8123"))[0] == 200


async def test_an_ipv4_client_of_an_ipv6_socket(tmp_path: Path, background: Background) -> None:
    web = "{{listen: '[::]:{port}', allow: [127.0.0.1]}}"
    async with running(tmp_path, background, web) as url:
        assert (await head_of(url, "api/meters"))[0] == 200
        async with behind("127.0.0.2") as client:
            assert (await client.get(f"{url}api/meters")).status_code == 403


def peak_memory(process: subprocess.Popen[str]) -> int:
    """The most memory that a process has taken so far, in MB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


async def test_guesses_that_come_at_once_are_few_and_take_no_memory(
    tmp_path: Path, background: Background
) -> None:
    port = free_port()
    async with serve_tcp(SimulatedMeter()) as meter:
        config = config_of(tmp_path, meter, with_password().format(port=port))
        gateway = background("run", "-c", str(config))
        await log_until(gateway, "answers, type")

        async def ask(client: httpx.AsyncClient, word: str) -> int:
            headers = {"Authorization": f"Bearer {word}"}
            answer = await client.get(f"http://127.0.0.1:{port}/api/meters", headers=headers)
            return answer.status_code

        async with behind("127.0.0.2") as other, behind("127.0.0.3") as guesser:
            assert await ask(other, "wrong") == 401  # so that one hash is in the memory it takes
            before = await asyncio.to_thread(peak_memory, gateway)
            *guesses, right = await asyncio.gather(
                *(ask(guesser, f"guess {number}") for number in range(90)), ask(other, PASSWORD)
            )
            assert right == 200
            assert sorted(guesses) == [401] * 5 + [429] * 85
            assert await asyncio.to_thread(peak_memory, gateway) < before + 28  # a hash takes 16
            assert await ask(guesser, PASSWORD) == 429
        await asyncio.to_thread(stop, gateway)


async def test_guesses_are_counted_when_they_come() -> None:
    """One at a time is hashed, so that a right one that comes along waits for few, and in turn."""
    guard = Guard(hash_password(PASSWORD))
    here, there = parse_address("192.0.2.1"), parse_address("192.0.2.2")

    async def guess(number: int) -> Verdict:
        return await guard.check(f"Bearer {number}", here)

    *found, right = await asyncio.gather(
        *map(guess, range(90)), guard.check(f"Bearer {PASSWORD}", there)
    )
    assert right is Verdict.ADMITTED
    assert found == [Verdict.REFUSED] * 5 + [Verdict.LOCKED] * 85


async def test_a_right_password_gives_the_count_back() -> None:
    guard, here = Guard(hash_password(PASSWORD)), parse_address("192.0.2.1")
    for number in range(4):
        assert await guard.check(f"Bearer {number}", here) is Verdict.REFUSED
    at_once = [guard.check(f"Bearer {PASSWORD}", here) for _ in range(30)]
    assert set(await asyncio.gather(*at_once)) == {Verdict.ADMITTED}
    wrong = [guard.check("Bearer wrong", here) for _ in range(30)]
    assert await asyncio.gather(*wrong) == [Verdict.REFUSED] * 5 + [Verdict.LOCKED] * 25


async def test_guesses_from_everywhere_do_not_pile_up() -> None:
    guard = Guard(hash_password(PASSWORD))
    home = parse_address("192.0.2.1")
    assert await guard.check(f"Bearer {PASSWORD}", home) is Verdict.ADMITTED
    many = [
        guard.check(f"Bearer {number}", parse_address(f"198.51.100.{number}"))
        for number in range(200)
    ]
    *found, known = await asyncio.gather(*many, guard.check(f"Bearer {PASSWORD}", home))
    assert known is Verdict.ADMITTED
    assert found.count(Verdict.BUSY) >= 150
    assert found.count(Verdict.REFUSED) + found.count(Verdict.BUSY) == 200


async def test_an_ipv6_network_guesses_as_one() -> None:
    guard = Guard(hash_password(PASSWORD))
    found = [
        await guard.check(f"Bearer {number}", parse_address(f"2001:db8::{number}:1"))
        for number in range(1, 8)
    ]
    assert found == [Verdict.REFUSED] * 5 + [Verdict.LOCKED] * 2
    next_door = parse_address("2001:db8:0:1::1")
    assert await guard.check(f"Bearer {PASSWORD}", next_door) is Verdict.ADMITTED
    mapped = [parse_address(f"::ffff:192.0.2.{number}") for number in range(9)]  # not one /64
    assert [await guard.check("Bearer x", one) for one in mapped] == [Verdict.REFUSED] * 9


async def test_what_a_guesser_says_about_himself_does_not_count(
    tmp_path: Path, background: Background
) -> None:
    """HAProxy says whom it asks for in a header line of its own, behind that of its client."""
    async with running(
        tmp_path, background, with_password(trusted_proxies="[127.0.0.0/24, '::1']")
    ) as url:

        async def ask(word: str, *forwarded: str) -> int:
            lines = [("X-Forwarded-For", one) for one in forwarded]
            async with httpx.AsyncClient() as client:
                answer = await client.get(
                    f"{url}api/meters", headers=[("Authorization", f"Bearer {word}"), *lines]
                )
            return answer.status_code

        found = [await ask(f"{number}", f"9.9.9.{number}", "192.0.2.7") for number in range(8)]
        assert found == [401] * 5 + [429] * 3
        for forwarded in ("192.0.2.7", "9.9.9.9, 192.0.2.7:5555", "192.0.2.7, 127.0.0.9, ::1"):
            assert await ask(PASSWORD, forwarded) == 429, forwarded
        for forwarded in ("192.0.2.8", "192.0.2.7, 192.0.2.8", "192.0.2.7, unknown"):
            assert await ask(PASSWORD, forwarded) == 200, forwarded


@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ([], "10.0.0.1"),
        ([""], "10.0.0.1"),
        (["192.0.2.7"], "192.0.2.7"),
        (["9.9.9.9", "192.0.2.7"], "192.0.2.7"),
        (["9.9.9.9, 192.0.2.7:8080"], "192.0.2.7"),
        (["[2001:db8::7]:443"], "2001:db8::7"),
        (["2001:db8::7"], "2001:db8::7"),
        (["::ffff:192.0.2.7"], "192.0.2.7"),
        (["9.9.9.9, 192.0.2.7, 10.0.0.2", "10.0.0.3"], "192.0.2.7"),
        (["10.0.0.2, 10.0.0.3"], "10.0.0.2"),
        (["9.9.9.9, unknown"], "10.0.0.1"),
        (["9.9.9.9, unknown, 10.0.0.2"], "10.0.0.2"),
        (["x" * 16000], "10.0.0.1"),
    ],
)
def test_for_whom_a_proxy_asks(forwarded: list[str], client: str) -> None:
    proxies = Networks(["10.0.0.0/8"])
    assert client_of(parse_address("10.0.0.1"), forwarded, proxies) == parse_address(client)
    stranger = parse_address("192.0.2.99")
    assert client_of(stranger, forwarded, proxies) == stranger
    assert client_of(None, forwarded, proxies) is None


def test_addresses_and_networks() -> None:
    assert parse_address("10.0.0.5") in Networks(["10.0.0.0/8"])
    assert parse_address("fe80::5%eth0") in Networks(["fe80::/10"])
    assert parse_address("::ffff:10.0.0.5") in Networks(["10.0.0.5"])
    assert parse_address("10.0.0.5") in Networks(["::ffff:10.0.0.5"])
    assert parse_address("10.0.0.5") not in Networks(["::/0"])
    assert None not in Networks(["0.0.0.0/0", "::/0"])
    for text in ("", "proxy", "10.0.0", "10.0.0.0/33", "10.0.0.5/24", "10.0.0.5:80", "/8"):
        with pytest.raises(ValueError, match=r"expected|such as|valid"):
            parse_network(text)


@pytest.mark.parametrize(
    ("web", "said"),
    [
        ("{trusted_proxies: [nginx]}", r"web.trusted_proxies\[1\]: 'nginx' is no address"),
        ("{trusted_proxies: [127.0.0.1, 10.0.0.5/24]}", r"expected 10.0.0.0/24 for all of"),
        ("{allow: [10.0.0.0/99]}", r"web.allow\[1\]: '10.0.0.0/99' has no valid length"),
        ("{allow: {a: b}}", "web.allow: expected a list of addresses"),
        ("{hosts: ['http://heat.example.org']}", r"web.hosts\[1\]: .* is no host name"),
        ("{hosts: ['heat.example.org:8402']}", "without http:// and port"),
        ("{hosts: [{a: b}]}", "web.hosts.* expected a list of host names"),
        ("{listen: '0.0.0.0:8402', hosts: [heat.example.org]}", "set web.password"),
        ("{listen: '0.0.0.0:8402', allow: []}", "or web.allow"),
    ],
)
def test_what_is_no_address_is_said(tmp_path: Path, web: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        load_config(config_of(tmp_path, "/dev/ttyUSB0", web), {})


def test_lists_from_the_environment(tmp_path: Path) -> None:
    path = config_of(tmp_path, "/dev/ttyUSB0", "{listen: '0.0.0.0:8402'}")
    config = load_config(
        path,
        {
            "KAMSTRUP_WEB__ALLOW": "10.0.0.5, 172.30.32.0/23",
            "KAMSTRUP_WEB__HOSTS": "heat.example.org,Heat",
            "KAMSTRUP_WEB__TRUSTED_PROXIES": "10.0.0.5",
        },
    )
    assert config.web is not None
    assert config.web.allow == ["10.0.0.5", "172.30.32.0/23"]
    assert config.web.hosts == ["heat.example.org", "heat"]
    assert config.web.trusted_proxies == ["10.0.0.5"]
    assert not any("web.allow" in one for one in config.warnings)
    with pytest.raises(ConfigError, match="KAMSTRUP_WEB__ALLOW: 'nginx' is no address"):
        load_config(path, {"KAMSTRUP_WEB__ALLOW": "nginx"})
    with pytest.raises(ConfigError, match=r"or web\.allow"):
        load_config(path, {"KAMSTRUP_WEB__ALLOW": " "})
    everybody = load_config(path, {"KAMSTRUP_WEB__ALLOW": "0.0.0.0/0"})
    assert any("everybody may see the page" in one for one in everybody.warnings)


GET = b"GET /api/meters HTTP/1.1\r\nHost: localhost\r\n\r\n"
HALF = b"GET /api/meters HTTP/1.1\r\nHost: loc"
BODY = b"POST /api/meters HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n"


Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


def to(url: str) -> Connect:
    """Connects to the page at `url`."""
    return lambda: asyncio.open_connection("127.0.0.1", httpx.URL(url).port)


@contextlib.asynccontextmanager
async def page(folder: Path) -> AsyncIterator[Connect]:
    """Connects to a page that listens nowhere, so that its deadlines pass in virtual time."""
    path, loop = folder / "history.db", asyncio.get_running_loop()
    house = House(
        WebSettings(listen="127.0.0.1:8402"), path, History(path, 1e9), Board(), (), (), "EUR",
        complaints=list, stuck=list, connected=lambda: True, backlog=lambda: 0,
    )  # fmt: skip
    config = uvicorn.Config(make_app(house), http=Connection, lifespan="off", log_config=None)
    config.load()
    state = ServerState()

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        ours, theirs = socket.socketpair()
        await loop.connect_accepted_socket(lambda: Connection(config, state, {}), theirs)
        return await asyncio.open_connection(sock=ours)

    yield connect
    for connection in list(state.connections):
        connection.transport.abort()
    await asyncio.gather(*state.tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def held(
    connect: Connect, first: bytes, then: bytes = b"", drip: bytes = b"", count: int = 110
) -> AsyncIterator[list[asyncio.Task[bytes]]]:
    """Connections that begin a request and do not end it.

    The tasks end when they are closed, with what came back meanwhile.
    """

    async def hold(started: asyncio.Event) -> bytes:
        heard = b""
        reader, writer = await connect()
        with contextlib.suppress(ConnectionError):
            writer.write(first)
            if then:
                heard += await reader.read(9999)
                writer.write(then)
            started.set()
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0.5):
                        data = await reader.read(9999)
                        if not data:
                            break
                        heard += data
                writer.write(drip)
        started.set()
        writer.close()
        return heard

    tasks = []
    for _ in range(count):
        started = asyncio.Event()
        tasks.append(asyncio.create_task(hold(started)))
        await started.wait()
    yield tasks
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# What they send first, then once that is answered, and then twice a second.
SLOW = {
    "half": (HALF, b"", b""),
    "line": (b"G", b"", b"E"),
    "slow": (HALF, b"", b"a"),
    "second": (GET, HALF, b""),
    "second-slow": (GET, HALF, b"a"),
    "body": (BODY, b"", b""),
    "body-slow": (BODY, b"", b"a"),
}


async def test_slow_requests_do_not_shut_the_page(tmp_path: Path, background: Background) -> None:
    """Of every kind some, and all of them no more than may wait, so that none makes room."""
    async with running(tmp_path, background) as url, contextlib.AsyncExitStack() as stack:
        slow = {
            name: await stack.enter_async_context(held(to(url), *says, count=16))
            for name, says in SLOW.items()
        }
        assert (await head_of(url, "api/meters"))[0] == 200
        for name, tasks in slow.items():
            done, pending = await asyncio.wait(tasks, timeout=60)
            assert not pending, f"{len(pending)} of {name} are still there"
            assert not any(task.exception() for task in done)
        assert {task.result() for task in slow["half"]} == {b""}  # it is given up
        assert (await head_of(url, "api/meters"))[0] == 200


async def test_a_flood_of_connections_does_not_shut_the_page(
    tmp_path: Path, background: Background
) -> None:
    async with running(tmp_path, background) as url, held(to(url), HALF, count=400) as flood:
        assert (await head_of(url, "api/meters"))[0] == 200
        assert sum(task.done() for task in flood) > 200
        assert not flood[-1].done()


@virtual
async def test_who_listens_stays(tmp_path: Path) -> None:
    """An event stream outlives the deadline, beside idle connections that do not."""
    async with page(tmp_path) as connect, held(connect, GET, count=5) as idle:
        reader, writer = await connect()
        writer.write(GET.replace(b"/api/meters", b"/events"))
        async with asyncio.timeout(60):
            await asyncio.gather(*idle)
        for _ in range(3):
            await reader.readuntil(b": still here\n\n")
        assert not reader.at_eof()
        writer.close()


@virtual
async def test_who_takes_no_answer_is_let_go(tmp_path: Path) -> None:
    """One that asks and asks, and reads nothing of what comes back."""
    async with page(tmp_path) as connect:
        _, writer = await connect()
        request = GET.replace(b"/api/meters", b"/api/openapi.json")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(90):
                while not writer.transport.is_closing():
                    writer.write(request)
                    await asyncio.sleep(0.01)
        assert writer.transport.is_closing()
        writer.close()


async def test_no_more_listen_than_there_are_places(tmp_path: Path, background: Background) -> None:
    """Also where all ask at once; the page stays open for everybody else."""
    async with running(tmp_path, background) as url, contextlib.AsyncExitStack() as stack:
        port = httpx.URL(url).port
        streams = [await asyncio.open_connection("127.0.0.1", port) for _ in range(90)]
        for _, writer in streams:
            stack.callback(writer.close)
            writer.write(GET.replace(b"/api/meters", b"/events"))
        async with asyncio.timeout(60):
            found = [(await reader.readline()).split()[1] for reader, _ in streams]
        assert sorted(found) == [b"200"] * 50 + [b"503"] * 40
        assert (await head_of(url, "api/meters"))[0] == 200
