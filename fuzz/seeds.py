"""Where fuzzing begins: by target, inputs with a name that says what they are, or what they broke.

`make test` runs all of them.
"""

from collections.abc import Mapping

from kamstrup_mqtt.kmp import (
    GetRegisterAnswer,
    GetRegisterRequest,
    RegisterValue,
    encode,
)

_ENERGY, _ENERGY_HIGH_RES, _CLOCK, _VOLUME = 60, 266, 1002, 68
_GJ, _WH, _M3, _TIME, _MONTH_DAY, _TEXT, _BITS = 8, 1, 39, 47, 50, 54, 59


def _answer(*values: tuple[int, int, int, str]) -> GetRegisterAnswer:
    """An answer with these registers, unit codes, sign/exponent bytes and value bytes in hex."""
    return GetRegisterAnswer(
        tuple(
            RegisterValue(register, unit, sign_exponent, bytes.fromhex(data))
            for register, unit, sign_exponent, data in values
        )
    )


def _body(*values: tuple[int, int, int, str]) -> bytes:
    return _answer(*values).to_data()


SEEDS: Mapping[str, Mapping[str, bytes]] = {
    "telegrams": {
        "answer-of-a-403": bytes.fromhex("403f10003c0304430000d6de03220d"),
        "answer-without-registers": bytes.fromhex("403f10079a0d"),
        "serial-behind-its-echo-and-noise": bytes.fromhex("00ff803f0235e90d00403f0201234567e9560d"),
        "crc-of-another": bytes.fromhex("403f10003c0304430000d6de03230d"),
        "escape-before-the-stop": bytes.fromhex("403f101b0d"),
        "cut-by-the-next-start": bytes.fromhex("403f1000403f0201234567e9560d"),
        "command-that-sets-the-clock": bytes.fromhex("803f090001144a00027715774e0d"),
        "no-end": b"\x40" + 4300 * b"\x00",
        # Ended `decode` with OverflowError.
        "time-of-six-bytes": encode(_answer((_CLOCK, _TIME, 0x00, "ff" * 6))),
        # Ended `capture` and `run --capture` with ValueError, for it could not be written back.
        "request-for-nothing": encode(GetRegisterRequest(())),
        "request-for-nine": encode(GetRegisterRequest(tuple(range(60, 69)))),
        "request-for-all-that-fit": encode(GetRegisterRequest(tuple(range(255)))),
    },
    "values": {
        "energy-with-its-fine-register": _body(
            (_ENERGY, _GJ, 0x42, "0000176c"), (_ENERGY_HIGH_RES, _WH, 0x00, "00658fdf")
        ),
        "largest-published-example": _body((128, 22, 0x11, "012af024")),
        # Was published as the number 0.
        "register-of-no-bytes": _body((_ENERGY, _GJ, 0x43, ""), (_CLOCK, _TIME, 0x00, "")),
        # Ended the gateway with InvalidOperation, in the counter for Home Assistant.
        "both-exponents-extreme": _body(
            (_ENERGY, _GJ, 0x3F, "01"), (_ENERGY_HIGH_RES, _WH, 0x7F, "01")
        ),
        "28-digits-whole-and-behind-the-point": _body(
            (_ENERGY, _GJ, 0x1B, "01"), (_ENERGY_HIGH_RES, _WH, 0x5B, "01")
        ),
        "as-many-bytes-as-there-can-be": _body((_VOLUME, _M3, 0x3F, "ff" * 255)),
        "negative-total": _body((_ENERGY, _GJ, 0xC3, "ffffffff")),
        # Was a date.
        "month-103": _body((98, _MONTH_DAY, 0x00, "2858")),
        "text-with-wildcards-as-serial": _body((1001, _TEXT, 0x00, "232f2b")),
        "bit-field-of-twelve-bytes": _body((_ENERGY, _BITS, 0x00, "ff" * 12)),
        "register-twice-with-other-units": _body(
            (_ENERGY, _GJ, 0x43, "01"), (_ENERGY, 0xFF, 0xFF, "02")
        ),
        "info-code-that-is-none": _body((99, 51, 0x80, "01"), (99, 51, 0x00, "05f5e100")),
    },
    "commands": {
        "read-all": b"",
        "read-some": b'["energy", 68, "0x10A"]',
        "read-for-half-an-hour": b'{"for": "30m"}',
        "interval-in-words": b"90s",
        "interval-that-is-no-number": b"1e999",
        "lists-in-lists": 2000 * b"[",
        "announced-before": b'{"components": {"energy": {"platform": "sensor", "name": "x"}}}',
    },
    "config": {
        "older-project": (
            b"mqtt: {host: 10.0.0.210, port: 1883, topic: kamstrup, retain: False}\n"
            b"serial_device: {com_port: /dev/ttyKamstrup}\n"
            b"kamstrup: {parameters: [energy, volume], poll_interval: 28}\n"
        ),
        "no-mapping": b"- mqtt\n",
        "alias-to-itself": b"mqtt: &a {host: *a}\n",
        "tab-and-no-utf-8": b"mqtt:\n\thost: \xff\n",
    },
    "captures": {
        "question-and-answer": (
            b"# words\n2026-11-24T10:28:00.104+00:00 > 803f02bb410d\n"
            b"2026-11-24T10:28:00.391+00:00 < 403f0200000000a6d30d\n"
        ),
        "time-without-zone-and-odd-hex": b"2026-11-24 > 803\n",
        "serial-number-on-the-line": bytes.fromhex("403f0201234567e9560d"),
        "another-program-asks-for-nothing": encode(GetRegisterRequest(())),
    },
    "tables": {
        "own": b"timestamp,meter,serial,energy [GJ]\n2026-01-01T00:00:00+00:00,m,1,227.445\n",
        "spreadsheet": b"time;energy [GJ]\n31-12-2025 10:00;227,445\n",
        "home-assistant": b"entity_id,state,last_changed\nsensor.x,unknown,2026-01-01\n",
        # Ended `import` with csv.Error.
        "field-without-end": b"time,energy [GJ]\n2026-01-01," + 200_000 * b"1",
        # Took all the memory there is when written out.
        "number-of-a-gigabyte": b"time,energy [GJ]\n2026-01-01,1e999999999\n",
        # Ended `import` with TypeError.
        "month-day-of-three-parts": b"time,98 (month-day)\n2026-01-01,1-2-3\n",
    },
}
