"""Whatever a configuration holds, reading it ends soon, with settings or with faults in words."""

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.gateway.commands import COMMANDS
from kamstrup_mqtt.gateway.config import KNOWN_KEYS, Config, ConfigError, load_config
from kamstrup_mqtt.outputs import LONGEST_SUBTOPIC

from .test_config import MINIMAL, faults, load

BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)
)
METERS = (
    "mqtt: {host: b, topic: TOPIC}\nmeters:\n"
    "- {name: 'NAME', port: /dev/x, parameters: all, poll_interval: 1}\n"
)


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "holds, or unfolds to, more than 100000 values"),
        ("[" * 100_000, "nest"),
        ("{a: " * 100_000, "is nested more than 32 deep"),
        ("a:\n- " + "- " * 100_000, "is nested more than 32 deep"),
        ("? " * 100_000, "is nested more than 32 deep"),
        ("a: [" + "x, " * 100_001 + "]", "more than 100000 values"),
        ("a: " + "x" * 1_000_001, "is larger than 1 MB"),
        ("a: 1\n---\nb: 2\n", "config.yaml:2: a second document begins here"),
        ("a: *b\n", "config.yaml:1: a: refers to &b, which is not before it"),
        ("? &a [*a]\n: x\n", "config.yaml:1: ?[1]: refers to itself"),
        ("? [a, b]\n: x\n", "config.yaml:1: ?: expected a word as key"),
        ("mqtt:\n  ? {a: b}\n  : x\n", "config.yaml:2: mqtt.?: expected a word as key"),
        ("mqtt:\n  <<: x\n", "config.yaml:2: mqtt.<<: expected keys to merge, such as <<: *other"),
        ('mqtt: {"a\\e[31m": x}\n', "mqtt.a?[31m: unknown key 'a?[31m'"),
        ("a: \x01\n", "is not valid YAML: unacceptable character #x0001"),
        ('a: "\\U0011ffff"\n', "is not valid YAML"),
        ('a: "\\Uffffffff"\n', "is not valid YAML"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: 1\n", "is not valid YAML"),
        (MINIMAL.replace("[energy]", "[" + "9" * 5000 + "]"), "unknown parameter '999"),
        (MINIMAL.replace("28", "9" * 5000), "poll_interval: expected minutes"),
        (MINIMAL.replace("interval: 28", "at: " + "9" * 5000), "poll_at: expected minutes past"),
        (MINIMAL.replace("interval: 28", "at: 0 0 30 2 *"), "poll_at: expected minutes past"),
        (MINIMAL + "history: {keep: 99999999999999999999d}\n", "history.keep: expected how long"),
        (MINIMAL.replace("host: b", "port: 1e400\n  host: b"), "mqtt.port: expected a port number"),
        (MINIMAL.replace("host: b", "port: " + "9" * 5000 + "\n  host: b"), "mqtt.port: expected"),
        (
            MINIMAL + "web: {prices: [{since: 99999-01-01, price: 1, per: GJ}]}\n",
            "web.prices[1].since: expected",
        ),
        (
            MINIMAL + "web: {prices: [{since: 2026-01-01, price: 1e400, per: GJ}]}\n",
            "web.prices[1].price: expected",
        ),
        (METERS.replace("'NAME'", "[a]"), "meters[1].name: expected a name without blanks"),
    ],
)
def test_what_nobody_means_is_told_in_a_line(tmp_path: Path, text: str, said: str) -> None:
    found = faults(tmp_path, text)
    assert any(said in fault for fault in found), found
    assert all(fault.isprintable() for fault in found)
    assert all(len(fault) < 1000 for fault in found)


def test_of_very_many_faults_the_first_are_told(tmp_path: Path) -> None:
    found = faults(tmp_path, "mqtt:\n" + "".join(f"  k{n}: x\n" for n in range(30_000)))
    assert len(found) == 101
    assert found[-1] == "config.yaml: and more faults"


def test_an_alias_is_a_copy_with_a_line_of_its_own(tmp_path: Path) -> None:
    text = (
        "mqtt: {host: b}\nmeters:\n- {name: a, port: /dev/a, parameters: &p [energy], "
        "poll_interval: 1}\n- {name: b, port: /dev/b, parameters: *p, poll_interval: x}\n"
    )
    (fault,) = faults(tmp_path, text)
    assert fault.startswith("config.yaml:4: meters[2].poll_interval: expected")
    assert [m.registers for m in load(tmp_path, text.replace("l: x", "l: 1")).meters] == [(60,)] * 2


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ('mqtt: {host: b, topic: "a\\nb"}', "mqtt.topic: expected text on one line, got the char"),
        ('mqtt: {host: b, client: "a\\tb"}', "mqtt.client: expected text on one line, got the"),
        ('mqtt: {host: b, username: "\\0"}', "mqtt.username: expected text on one line, got the"),
        ('mqtt: {host: b, topic: "a\\uffff"}', "mqtt.topic: expected text on one line, got the"),
        ('mqtt: {host: "b\\0"}', "mqtt.host: expected text on one line, got the character U+0000"),
        ("mqtt: {host: b, topic: $SYS}", "mqtt.topic: expected a topic that does not begin with $"),
        ("homeassistant: {prefix: $a}", "homeassistant.prefix: expected a topic that does not beg"),
        ("web: {outdoor_topic: $a}", "web.outdoor_topic: expected a topic that does not begin wit"),
        ("web: {outdoor_topic: a/+}", "web.outdoor_topic: expected a topic without the wildcards"),
        ('web: {outdoor_topic: "a\\rb"}', "web.outdoor_topic: expected text on one line"),
        ("mqtt: {host: b, topic: LONG}", "mqtt.topic: expected at most 65535 bytes"),
        ("mqtt: {host: b, client: LONG}", "mqtt.client: expected at most 65535 bytes"),
        ("mqtt: {host: b, password: LONG}", "mqtt.password: expected at most 65535 bytes"),
        ("homeassistant: {prefix: LONG}", "homeassistant.prefix: expected at most 65535 bytes"),
        ("web: {outdoor_topic: LONG}", "web.outdoor_topic: expected at most 65535 bytes"),
        ('serial_device: {com_port: "/dev/a\\0b"}', "com_port: expected text on one line, got the"),
        ('serial_device: {com_port: "/dev/a\\nb"}', "com_port: expected text on one line, got the"),
        (f"serial_device: {{com_port: /dev/{'a' * 256}}}", "com_port: no file can be named"),
    ],
)
def test_texts_that_no_broker_and_no_port_takes(tmp_path: Path, given: str, said: str) -> None:
    section = given.partition(":")[0]
    rest = {"mqtt": "mqtt:\n  host: broker\n", "serial_device": "serial_device:\n  com_port: "}
    text = MINIMAL.replace(rest["mqtt"], "") if section == "mqtt" else MINIMAL
    text = (
        text.replace(rest["serial_device"] + "/dev/ttyUSB0\n", "")
        if section == "serial_device"
        else text
    )
    found = faults(tmp_path, f"{text}{given}\n".replace("LONG", "ä" * 32_768))
    line = len(text.splitlines()) + 1
    assert any(f"config.yaml:{line}: " in fault and said in fault for fault in found), found


def test_a_topic_has_room_for_what_comes_behind_it(tmp_path: Path) -> None:
    behind = ["values", "backlog", *COMMANDS, *(one.name for one in REGISTERS.values())]
    assert max(len(f"/{name}".encode()) for name in behind) <= LONGEST_SUBTOPIC
    assert len("/device/kamstrup_4294967295/config") <= LONGEST_SUBTOPIC
    name = "n" * 100
    text = METERS.replace("NAME", name)
    room = 65_535 - LONGEST_SUBTOPIC - len(f"/{name}")
    assert len(load(tmp_path, text.replace("TOPIC", "t" * room)).mqtt.topic) == room
    (fault,) = faults(tmp_path, text.replace("TOPIC", "t" * (room + 1)))
    assert fault == f"config.yaml:1: mqtt.topic: expected at most {room} bytes"
    (fault, *_) = faults(tmp_path, METERS.replace("'NAME'", '"a\\0b"'))
    assert "meters[1].name: expected text on one line, got the character U+0000" in fault


def test_a_list_over_several_lines_and_any_password_are_fine(tmp_path: Path) -> None:
    text = MINIMAL.replace("[energy]", "|\n    energy,\n    volume\n")
    text = text.replace("host: b", 'username: u\n  password: "a\\tb\\x01"\n  host: b')
    config = load(tmp_path, text)
    assert config.meters[0].registers == (60, 68)
    assert config.mqtt.credentials == ("u", "a\tb\x01")


def test_a_section_without_keys_takes_those_of_the_environment(tmp_path: Path) -> None:
    text = MINIMAL.replace("mqtt:\n  host: broker\n", "mqtt:\n")
    assert load(tmp_path, text, KAMSTRUP_MQTT__HOST="x").mqtt.host == "x"


def test_a_secret_in_an_alias_is_warned_about(tmp_path: Path) -> None:
    text = MINIMAL.replace("mqtt:\n  host: broker\n", "") + (
        "x: &m {host: b, username: u, password: p}\nmqtt: *m\n"
    )
    assert [fault[:13] for fault in faults(tmp_path, text)] == ["config.yaml:6"]
    text = text.replace("x: &m", "mqtt:").replace("mqtt: *m\n", "")
    assert len(load(tmp_path, text).warnings) == 1


@pytest.mark.timeout(60)
def test_a_configuration_that_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, said in (
        (tmp_path / "pipe", "cannot be read: it is a pipe that nothing comes out of"),
        (Path("/dev/zero"), "cannot be read: it is a device, not a file"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / ("x" * 300), "no file can be named"),
        (Path("a\0b"), "no file can be named"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(path, {})


words = st.sampled_from(
    [*sorted(KNOWN_KEYS), "mqtt", "meters", "kamstrup", "serial_device", "web", "log", "history",
     "homeassistant", ": ", ":\n  ", "\n", "- ", "[", "]", "{", "}", ", ", "&a ", "*a", "? ", "<<",
     "!!int ", "'", '"', "\\0", "\\ud800", "|\n", "---\n", "#", "%", "\t", "1", "-1", "9" * 400,
     "1e400", "0x10A", "all", "energy", "null", "~", "2026-13-01", "*/0", "socket://[", "/dev/x",
     "127.0.0.1:99999", "scrypt:2:1:1:00:00", "true", ".inf", "\ud800", "\0", "é", "\U0001ffff"]
)  # fmt: skip
files = st.one_of(
    st.binary(max_size=300),
    st.lists(words, max_size=30).map(lambda parts: "".join(parts).encode(errors="surrogatepass")),
    st.tuples(st.integers(0, len(MINIMAL)), st.integers(0, len(MINIMAL)), words).map(
        lambda cut: (MINIMAL[: cut[0]] + cut[2] + MINIMAL[cut[1] :]).encode(errors="replace")
    ),
)
texts = st.one_of(words, st.text(st.characters(), max_size=30))
variables = st.dictionaries(
    st.one_of(
        st.sampled_from(["STATE_DIRECTORY", "KAMSTRUP_", "KAMSTRUP___", "KAMSTRUP_METERS__0"]),
        st.builds("KAMSTRUP_{}__{}".format, words, words).map(str.upper),
        st.text(max_size=9).map("KAMSTRUP_MQTT__{}".format),
    ),
    texts,
    max_size=4,
)


@hypothesis_settings(max_examples=1500)
@given(files, variables)
@example(MINIMAL.encode(), {"KAMSTRUP_\udc80__\udc80": "\udc80"})
@example(MINIMAL.encode(), {"KAMSTRUP_MQTT__TOPIC": "\udc80", "STATE_DIRECTORY": "a\0b"})
def test_any_bytes_and_any_environment_give_settings_or_faults(
    tmp_path_factory: pytest.TempPathFactory, content: bytes, environment: dict[str, str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any" / "config.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    faults: list[str] = []
    try:
        assert isinstance(load_config(path, environment), Config)
    except ConfigError as error:
        faults = error.faults or [""]
    assert all(fault and fault.isprintable() for fault in faults)
