"""The configuration: the older file as it is, the new keys, and every fault in one go."""

from decimal import Decimal
from pathlib import Path

import pytest

from kamstrup_mqtt.catalog import REGISTERS
from kamstrup_mqtt.gateway.config import Config, ConfigError, load_config

OLDER = Path(__file__).parent / "configs" / "older.yaml"

MINIMAL = """\
mqtt:
  host: broker
serial_device:
  com_port: /dev/ttyUSB0
kamstrup:
  parameters: [energy]
  poll_interval: 28
"""


def load(tmp_path: Path, text: str, **environment: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path, environment)


def faults(tmp_path: Path, text: str, **environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **environment)
    prefix = f"{tmp_path}/"
    return [fault.removeprefix(prefix) for fault in caught.value.faults]


def test_the_older_file_works_word_for_word() -> None:
    config = load_config(OLDER, {})
    (meter,) = config.meters
    assert meter.port == "/dev/ttyKamstrup"
    assert meter.registers == (60, 68, 86, 87)
    assert meter.interval_s == 28 * 60
    assert meter.topic == "kamstrup"
    assert (config.mqtt.address, config.mqtt.client) == ("10.0.0.210:1883", "kamstrup")
    assert (config.mqtt.qos, config.mqtt.retain) == (0, False)
    assert config.mqtt.credentials == (None, None)  # authentication is False


def test_every_older_key(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("")
    (tmp_path / "client.pem").write_text("")
    (tmp_path / "client.key").write_text("")
    text = """
mqtt:
    host: 10.0.0.210
    port: 8883
    client: kamstrup
    topic: home/heat
    retain: True
    qos: 2
    authentication: True
    username: user1
    password: 0123
    tls_enabled: True
    tls_ca_cert: ca.pem
    tls_cert: client.pem
    tls_key: client.key
    tls_insecure: True
serial_device:
    com_port: socket://10.10.3.14:2003
kamstrup:
    parameters: [minflowDate_m]
    poll_interval: 28
"""
    config = load(tmp_path, text)
    assert config.mqtt.credentials == ("user1", "0123")  # as written, not as a number
    assert config.mqtt.tls_ca_cert == tmp_path / "ca.pem"
    assert config.mqtt.tls_insecure
    assert (config.mqtt.qos, config.mqtt.retain) == (2, True)
    assert "0123" not in repr(config)


def test_empty_values_count_as_not_given(tmp_path: Path) -> None:
    text = MINIMAL.replace("host: broker", "host: broker\n  tls_ca_cert:\n  retain: ~\n  qos: null")
    config = load(tmp_path, text + "log:\n")
    assert config.mqtt.tls_ca_cert is None
    assert config.mqtt.qos == 0


@pytest.mark.parametrize(
    ("given", "seconds"),
    [("28", 1680), ("0.5", 30), ("30s", 30), ("5m", 300), ("1h", 3600), ("1.5 H", 5400)],
)
def test_intervals(tmp_path: Path, given: str, seconds: float) -> None:
    (meter,) = load(tmp_path, MINIMAL.replace("28", given)).meters
    assert meter.interval_s == seconds


@pytest.mark.parametrize(
    ("given", "registers"),
    [
        ("ENERGY", (60,)),
        ("energy, 0x10A", (60, 266)),
        ("[60, volume, 0x3C]", (60, 68)),
        ("all", tuple(REGISTERS)),
        ("[all]", tuple(REGISTERS)),
    ],
)
def test_parameters(tmp_path: Path, given: str, registers: tuple[int, ...]) -> None:
    (meter,) = load(tmp_path, MINIMAL.replace("[energy]", given)).meters
    assert meter.registers == registers


def test_several_meters_have_topics_of_their_own(tmp_path: Path) -> None:
    text = """
mqtt: {host: broker, topic: heat}
meters:
- {name: left, port: /dev/ttyUSB0, parameters: all, poll_interval: 5m}
- {name: right, port: "socket://10.0.0.5:4000", parameters: [energy], poll_interval: 1h}
homeassistant: {discovery: true, prefix: homeassistant}
history: {path: history.db, keep: 2y, max_size: 2GB}
web: {listen: "127.0.0.1:8402"}
log: {level: debug, file: logs/debug.log}
"""
    config = load(tmp_path, text)
    assert [(m.name, m.topic) for m in config.meters] == [
        ("left", "heat/left"),
        ("right", "heat/right"),
    ]
    assert config.history.max_bytes == 2 << 30
    assert config.log.file == tmp_path / "logs" / "debug.log"


def test_the_environment_lies_over_the_file(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        MINIMAL,
        KAMSTRUP_MQTT__PASSWORD="secret",
        KAMSTRUP_MQTT__USERNAME="me",
        KAMSTRUP_KAMSTRUP__PARAMETERS="energy,volume",
        KAMSTRUP_LOG__LEVEL="debug",
        KAMSTRUP_UNRELATED="x",
    )
    assert config.mqtt.credentials == ("me", "secret")
    assert config.meters[0].registers == (60, 68)
    assert config.log.level == "debug"
    assert faults(tmp_path, MINIMAL, KAMSTRUP_MQTT__PROT="1", KAMSTRUP_MQTT__QOS="7") == [
        "environment variable KAMSTRUP_MQTT__PROT: unknown key 'prot', did you mean 'port'?",
        "environment variable KAMSTRUP_MQTT__QOS: expected 0, 1 or 2, got '7'",
    ]


def test_lists_of_the_environment_are_as_in_yaml(tmp_path: Path) -> None:
    meters = "[{name: a, port: /dev/ttyUSB7, parameters: [energy, volume], poll_interval: 5}]"
    mqtt = MINIMAL.partition("serial_device")[0]
    config = load(
        tmp_path,
        mqtt,
        KAMSTRUP_METERS=meters,
        KAMSTRUP_PRICES="[{since: 2026-01-01, price: 38.50, per: GJ}]",
        KAMSTRUP_CURRENCY="DKK",
        KAMSTRUP_WEB__ALLOW="[10.0.0.5, 10.0.0.6]",
        KAMSTRUP_MQTT__PASSWORD="[x",
        KAMSTRUP_MQTT__USERNAME="{me",
        KAMSTRUP_METERS__0__PORT="/dev/ttyUSB8",
        KAMSTRUP_WEB__LISTEN="[::1]:8402",
        KAMSTRUP_LOG="{level: debug}",
    )
    assert config.meters[0].port == "/dev/ttyUSB8"
    assert config.log.level == "debug"
    assert [(meter.name, meter.registers) for meter in config.meters] == [("a", (60, 68))]
    assert [price.price for price in config.prices] == [Decimal("38.50")]
    assert config.currency == "DKK"
    assert config.web is not None
    assert len(config.web.allow) == 2
    assert config.mqtt.credentials == ("{me", "[x")
    over = mqtt + "meters:\n- {name: b, port: /dev/x, parameters: [nonsense], poll_interval: 1}\n"
    assert load(tmp_path, over, KAMSTRUP_METERS=meters).meters[0].name == "a"
    wrong = meters.replace("energy", "enregy")
    assert faults(tmp_path, over, KAMSTRUP_METERS=wrong) == [
        "environment variable KAMSTRUP_METERS: unknown parameter 'enregy', did you mean 'energy'?"
    ]
    assert faults(tmp_path, mqtt, KAMSTRUP_METERS="[{")[-1] == (
        "environment variable KAMSTRUP_METERS: is not valid YAML; expected such as [energy, volume]"
    )


def test_keys_are_merged_from_others(tmp_path: Path) -> None:
    text = (
        MINIMAL.partition("serial_device")[0]
        + """\
meters:
- &first
  name: a
  port: /dev/a
  parameters: [energy, volume]
  poll_interval: 5m
- &second
  poll_interval: 1h
  <<: *first
  name: b
  port: /dev/b
- {<<: [*second, *first], name: c, port: /dev/c, poll_interval: ~, poll_at: 59}
"""
    )
    meters = load(tmp_path, text).meters
    assert [(one.name, one.port, one.interval_s) for one in meters] == [
        ("a", "/dev/a", 300), ("b", "/dev/b", 3600), ("c", "/dev/c", 3600),
    ]  # fmt: skip
    assert faults(tmp_path, text.replace(", port: /dev/c", "")) == [
        "config.yaml:14: meters[3].port: '/dev/b' is used by another meter"
    ]
    assert faults(tmp_path, text.replace("<<: *first", "<<: 5")) == [
        "config.yaml:9: meters[2].parameters: required, but missing; expected a list of parameter "
        "names, register numbers, or `all`",
        "config.yaml:11: meters[2].<<: expected keys to merge, such as <<: *other",
    ]


def test_an_empty_section_is_as_none_and_said(tmp_path: Path) -> None:
    config = load(tmp_path, MINIMAL + "web:\nprices:\nhistory: {}\n")
    assert config.web is None
    assert [warning.partition(": ")[2] for warning in config.warnings] == [
        f"{name}: is empty, which is the same as leaving it out"
        for name in ("history", "web", "prices")
    ]


def test_prices_are_a_section_of_their_own_or_of_the_page(tmp_path: Path) -> None:
    prices = "prices: [{since: 2026-01-01, price: 38.50, per: GJ}]\n"
    own = load(tmp_path, MINIMAL + prices + "currency: DKK\n")
    page = load(tmp_path, f"{MINIMAL}web:\n  currency: DKK\n  {prices}")
    assert own.prices == page.prices != ()
    assert own.currency == page.currency == "DKK"
    assert faults(tmp_path, f"{MINIMAL}{prices}web:\n  {prices}") == [
        "config.yaml:10: web.prices: give either prices, or web.prices, not both"
    ]


def test_the_password_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s e c r e t\n")
    text = MINIMAL.replace("host: broker", "host: broker\n  username: u\n  password_file: password")
    assert load(tmp_path, text).mqtt.credentials == ("u", "s e c r e t")
    both = text.replace("username: u", "username: u\n  password: p")
    assert faults(tmp_path, both) == [
        "config.yaml:4: mqtt.password: give either password or password_file"
    ]
    (fault,) = faults(tmp_path, text.replace("password_file: p", "password_file: nop"))
    assert fault.startswith("config.yaml:4: mqtt.password_file: cannot be read")


def test_every_fault_in_one_go_with_line_key_expectation_and_nearest_name(tmp_path: Path) -> None:
    text = """\
mqtt:
    hots: 10.0.0.210
    port: 188300
    topic: kamstrup/#
    qos: 3
    retain: maybe
    authentication: True
    tls_enabled: yes
    tls_ca_cert: nope.pem
    tls_key: nope.key
serial_device:
    com_port: sokcet://x:1
kamstrup:
    parameters:
    - enregy
    - 70000
    - [energy]
    poll_interval: never
wbe:
    listen: 1
log:
    level: loud
"""
    assert [fault.replace(f"{tmp_path}/", "") for fault in faults(tmp_path, text)] == [
        "config.yaml:1: mqtt.host: required, but missing; expected the broker's host name or "
        "address, without mqtt://",
        "config.yaml:2: mqtt.hots: unknown key 'hots', did you mean 'host'?",
        "config.yaml:3: mqtt.port: expected a port number from 1 to 65535, got '188300'",
        "config.yaml:4: mqtt.topic: expected a topic without the wildcards + and #, "
        "got 'kamstrup/#'",
        "config.yaml:5: mqtt.qos: expected 0, 1 or 2, got '3'",
        "config.yaml:6: mqtt.retain: expected true or false, got 'maybe'",
        "config.yaml:7: mqtt.authentication: expected a username along with it",
        "config.yaml:9: mqtt.tls_ca_cert: there is no file nope.pem",
        "config.yaml:10: mqtt.tls_key: expected a tls_cert along with it",
        "config.yaml:10: mqtt.tls_key: there is no file nope.key",
        "config.yaml:12: serial_device.com_port: sokcet://x:1: 'sokcet://' is unknown; use a "
        "device path, socket://host:port or rfc2217://host:port",
        "config.yaml:15: kamstrup.parameters[1]: unknown parameter 'enregy', "
        "did you mean 'energy'?",
        "config.yaml:16: kamstrup.parameters[2]: there is no register 70000: "
        "numbers go from 0 to 0xFFFF",
        "config.yaml:17: kamstrup.parameters[3]: expected a list of parameter names, register "
        "numbers, or `all`, got a list",
        "config.yaml:18: kamstrup.poll_interval: expected minutes such as 28, or 30s, 5m, 1h; "
        "from 1 second to 7 days, got 'never'",
        "config.yaml:19: wbe: unknown key 'wbe', did you mean 'web'?",
        "config.yaml:22: log.level: expected debug, info, warning or error, got 'loud'",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "holds no settings"),
        ("- a\n", "holds no settings"),
        ("mqtt\n", "holds no settings"),
        ("mqtt:\n\thost: x\n", "config.yaml:2: is not valid YAML"),
        ("mqtt: [\n", "config.yaml:2: is not valid YAML"),
        ("mqtt:\n  host: a\n  host: b\n", "config.yaml:2: mqtt.host: given again in line 3"),
        ("mqtt: &m\n  host: *m\n", "config.yaml:2: mqtt.host: refers to itself"),
        ("mqtt: 5\n", "config.yaml:1: mqtt: expected a section with at least the broker's host"),
        ("mqtt:\n", "mqtt: required, but missing"),
        (MINIMAL.replace("[energy]", "[]"), "config.yaml:6: kamstrup.parameters: expected a list"),
        (MINIMAL.replace("28", "0"), "config.yaml:7: kamstrup.poll_interval: expected minutes"),
        (MINIMAL.replace("28", "-5"), "got '-5'"),
        (MINIMAL.replace("broker", "mqtt://broker"), "config.yaml:2: mqtt.host: expected"),
        (MINIMAL.replace("serial_device:\n  com_port: /dev/ttyUSB0\n", ""), "serial_device: this"),
        (MINIMAL.replace("  poll_interval: 28\n", ""), "poll_interval: required, but missing"),
        (MINIMAL + "meters: []\n", "config.yaml:8: meters: expected at least one meter"),
        (MINIMAL + "meters: [5]\n", "meters[1]: expected a meter with name, port, parameters"),
        (MINIMAL + "meters: [{name: a b}]\n", "meters[1].name: expected a name without blanks"),
        (MINIMAL + "meters: 5\n", "either meters, or serial_device and kamstrup"),
        (
            "mqtt: {host: b}\nmeters:\n"
            + "- {name: a, port: /dev/x, parameters: all, poll_interval: 1}\n" * 2,
            "config.yaml:4: meters[2].name: 'a' is used by another meter",
        ),
        ("mqtt:\n  password: [secret]\n", "config.yaml:2: mqtt.password: expected a password"),
    ],
)
def test_bad_files_are_refused_in_words(tmp_path: Path, text: str, said: str) -> None:
    found = faults(tmp_path, text)
    assert any(said in fault for fault in found), found
    assert not any("secret" in fault for fault in found)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path, said in (
        (tmp_path / "none.yaml", "no such file; copy config.example.yaml"),
        (tmp_path, "cannot be read: Is a directory"),
        (tmp_path / "binary.yaml", "UTF-8"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(path, {})


def test_the_keys_for_brokers_of_all_kinds(tmp_path: Path) -> None:
    text = MINIMAL.replace(
        "host: broker",
        "host: broker\n  version: 5\n  transport: websockets\n  path: /ws\n  keepalive: 30\n"
        "  topics: per_parameter\n  username: only",
    )
    mqtt = load(tmp_path, text + "homeassistant: {prefix: ha, volume_as: water}\n").mqtt
    assert (mqtt.version, mqtt.transport, mqtt.path, mqtt.keepalive) == (
        "5",
        "websockets",
        "/ws",
        30,
    )
    assert mqtt.topics == "per_parameter"
    assert mqtt.credentials == ("only", None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("version: 4", "expected 3.1.1 or 5, got '4'"),
        ("transport: udp", "expected tcp or websockets, got 'udp'"),
        ("path: mqtt", "expected a path that begins with a slash, got 'mqtt'"),
        ("topics: all", "expected json, or per_parameter for a topic each as well, got 'all'"),
    ],
)
def test_wrong_values_of_those_keys(tmp_path: Path, given: str, expected: str) -> None:
    (fault,) = faults(tmp_path, MINIMAL.replace("host: broker", f"host: broker\n  {given}"))
    assert fault.endswith(expected)


def test_a_secret_that_everybody_can_read_is_warned_about(tmp_path: Path) -> None:
    secret = MINIMAL.replace("host: broker", "host: broker\n  username: u\n  password: s3cret")
    (warning,) = load(tmp_path, secret).warnings
    path = tmp_path / "config.yaml"
    assert warning.endswith(f"everybody on this machine can read it: `chmod o-rwx {path}`")
    assert "s3cret" not in warning
    path.chmod(0o640)  # as the systemd unit wants it
    assert load_config(path, {}).warnings == ()
    assert load(tmp_path, MINIMAL, KAMSTRUP_MQTT__PASSWORD="s3cret").warnings == ()
    password = tmp_path / "password"
    password.write_text("s3cret")
    (warning,) = load(
        tmp_path, MINIMAL.replace("host: broker", "host: broker\n  password_file: password")
    ).warnings
    assert str(password) in warning


def test_tls_without_the_name_is_warned_about(tmp_path: Path) -> None:
    text = MINIMAL.replace("host: broker", "host: broker\n  tls_enabled: yes\n  tls_insecure: yes")
    (warning,) = load(tmp_path, text).warnings
    assert warning.startswith("mqtt.tls_insecure: the broker's name is not checked")
