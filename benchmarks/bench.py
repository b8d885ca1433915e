"""The benchmarks, each a ratio taken in one run, one line a figure.

Measured against a peer, against what the wire allows, and against times that users are promised.
"""

import asyncio
import logging
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from pykmp.client import ClientCodec, EncodedClientResponse
from pykmp.codec import CrcChecksumInvalidError, FloatCodec, PhysicalBytes
from pykmp.messages import GetRegisterRequest as PeerRequest

from kamstrup_mqtt import open_meter
from kamstrup_mqtt.catalog import CLASSIC_PARAMETERS
from kamstrup_mqtt.consumption import Archive, local_zone
from kamstrup_mqtt.kmp import (
    BYTE_S,
    Frame,
    FrameReader,
    GetRegisterAnswer,
    GetRegisterRequest,
    Value,
    decode,
    encode,
)
from kamstrup_mqtt.simulator import Fault, Line, SimulatedMeter, past, serve_tcp
from kamstrup_mqtt.store import History

ROUNDS = 30
TELEGRAMS = 200
TURNAROUND_S = 0.07  # of a real meter (kmp.md, 1)
SILENCE_LIMIT_S = 15.0  # promised to users of `read`
END_LIMIT_S = 2.0  # promised to whoever stops the gateway
COMMAND = (sys.executable, "-m", "kamstrup_mqtt")
CONFIG = """
mqtt: {{host: 127.0.0.1, port: 1}}
serial_device: {{com_port: "{port}"}}
kamstrup: {{parameters: [energy], poll_interval: 1h}}
"""
NUMBERS = (60, 68, 74, 80, 86, 87, 89, 1004)


def telegrams() -> list[bytes]:
    """Answers with eight registers, as a house goes through its day."""
    meter = SimulatedMeter("402")
    request = encode(GetRegisterRequest(NUMBERS))
    (frame,) = FrameReader().feed(request)
    assert isinstance(frame, Frame)
    return [meter.react(frame, now * 300.0).answer for now in range(TELEGRAMS)]


def ours(raw: bytes) -> list[Value]:
    (frame,) = FrameReader().feed(raw)
    assert isinstance(frame, Frame)
    answer = decode(frame)
    assert isinstance(answer, GetRegisterAnswer)
    return [register.value for register in answer.values]


def peers(raw: bytes, codec: ClientCodec) -> list[Value]:
    response = EncodedClientResponse(physical_bytes=PhysicalBytes(raw), request_cls=PeerRequest)
    answer = codec.decode(frame=response)
    return [FloatCodec.decode(register.value) for register in answer.registers.values()]


def decodable_by_peer(raw: bytes, codec: ClientCodec) -> bool:
    """PyKMP 0.0.2 undoes some runs of stuffing twice and then refuses the telegram."""
    try:
        peers(raw, codec)
    except CrcChecksumInvalidError:
        return False
    return True


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def bench_decoding() -> None:
    codec = ClientCodec()
    logging.disable()
    raws = [raw for raw in telegrams() if decodable_by_peer(raw, codec)]
    assert [ours(raw) for raw in raws] == [peers(raw, codec) for raw in raws]
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS):  # in turns, so that a noisy machine disturbs both
        mine = seconds(lambda: [ours(raw) for raw in raws])
        theirs = seconds(lambda: [peers(raw, codec) for raw in raws])
        times.append((mine, theirs))
    mine, theirs = (min(column) / len(raws) * 1e6 for column in zip(*times, strict=True))
    print(f"decoding vs PyKMP: {theirs / mine:.1f}x")


async def bench_readout() -> None:
    line = Line(pace=True, echo=True, turnaround_s=TURNAROUND_S)
    meter = SimulatedMeter("402")
    async with serve_tcp(meter, line=line) as port, open_meter(port) as opened:
        await opened.read(["energy"])  # identification is done
        meter.requests.clear()
        begin = time.perf_counter()
        readout = await opened.read(CLASSIC_PARAMETERS)
        took = time.perf_counter() - begin
        assert len(readout) == len(CLASSIC_PARAMETERS)
        limit = 0.0
        for raw in map(encode, list(meter.requests)):  # the answers are as long as they were
            (frame,) = FrameReader().feed(raw)
            assert isinstance(frame, Frame)
            answer = meter.react(frame, asyncio.get_running_loop().time()).answer
            limit += (len(raw) + len(answer)) * BYTE_S + TURNAROUND_S
    print(f"readout of {len(readout)} parameters vs wire limit: {took / limit:.3f}x")


async def bench_silence() -> None:
    meter = SimulatedMeter(faults={Fault.SILENT: 1.0})
    async with serve_tcp(meter) as port:
        begin = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *COMMAND, "read", port, stderr=asyncio.subprocess.DEVNULL
        )
        assert await process.wait() == 3
        took = time.perf_counter() - begin
    print(f"telling that no meter answers vs {SILENCE_LIMIT_S:g} s: {took / SILENCE_LIMIT_S:.3f}x")


async def bench_end() -> None:
    """The end of a gateway that is reading a meter that never answers, with no broker there."""
    meter = SimulatedMeter(faults={Fault.SILENT: 1.0})
    async with serve_tcp(meter) as port:
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write(CONFIG.format(port=port))
            config.flush()
            process = await asyncio.create_subprocess_exec(
                *COMMAND, "run", "-c", config.name, stderr=asyncio.subprocess.DEVNULL
            )
            while not meter.requests:
                await asyncio.sleep(0.05)
            begin = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            assert await process.wait() == 0
            took = time.perf_counter() - begin
    print(f"clean end on SIGTERM vs {END_LIMIT_S:g} s: {took / END_LIMIT_S:.3f}x")


async def bench_charts() -> None:
    """A year by the day as the page draws it, against merely reading its hours from the file."""
    end = datetime.now(local_zone()).replace(minute=0, second=0, microsecond=0)
    begin = end - timedelta(days=365)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "history.db")
        history = History(path, 1e9)
        await history.open()
        await history.take_in(
            ("meter", readout) for readout in past(SimulatedMeter(), NUMBERS, begin, end)
        )
        await history.close()
        plain = sqlite3.connect(path)
        query = "SELECT hour, first, last FROM hour WHERE meter = 1 AND register = 60"
        with Archive(path) as archive:
            drawn = min(
                seconds(lambda: archive.used("meter", 60, begin, end, "day")) for _ in range(ROUNDS)
            )
        read = min(seconds(lambda: plain.execute(query).fetchall()) for _ in range(ROUNDS))
        plain.close()
    print(f"a year by day vs a plain query of its hours: {drawn / read:.1f}x")


def main() -> None:
    bench_decoding()
    asyncio.run(bench_charts())
    asyncio.run(bench_readout())
    asyncio.run(bench_silence())
    asyncio.run(bench_end())


if __name__ == "__main__":
    main()
