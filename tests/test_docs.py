"""The documentation says what is true: commands, keys, parameters, examples."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import click
import pytest
import yaml

from kamstrup_mqtt import catalog
from kamstrup_mqtt.cli.main import COMMANDS, cli
from kamstrup_mqtt.gateway import commands
from kamstrup_mqtt.gateway.commands import wanted_readout
from kamstrup_mqtt.gateway.config import KNOWN_KEYS, load_config
from kamstrup_mqtt.readout.status import LinkState
from kamstrup_mqtt.tools.doctor import Finding

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme_and_has_help() -> None:
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert f"`kamstrup-mqtt {name}" in README, name
        assert command.help


def test_every_key_of_the_configuration_is_in_the_readme() -> None:
    table = README[README.index("| section | key |") : README.index("### Several meters")]
    for name in KNOWN_KEYS:  # of sections, too
        assert f"`{name}`" in table, name


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def test_the_tables_of_parameters_are_those_of_the_catalog() -> None:
    registers = [catalog.REGISTERS[catalog.register_number(n)] for n in catalog.CLASSIC_PARAMETERS]
    known = [[f"`{r.name}`", r.title, ", ".join(r.units)] for r in registers]
    start = README.index("| parameter | meaning | unit |")
    assert rows(README[start : README.index("## Running it")]) == known
    registers += [r for r in catalog.REGISTERS.values() if r not in registers]
    assert rows((ROOT / "docs" / "parameters.md").read_text()) == [
        [f"`{r.name}`", r.title, ", ".join(r.units), str(r.number), ", ".join(r.models)]
        for r in registers
    ]


def test_the_example_configuration_is_valid() -> None:
    config = load_config(ROOT / "config.example.yaml", {})
    assert config.mqtt.topic == "kamstrup"
    assert config.meters[0].interval_s == 28 * 60


def test_the_telegram_of_the_readme_decodes() -> None:
    (telegram,) = re.findall(r"kamstrup-mqtt decode ([0-9a-f]+)", README)
    done = subprocess.run(
        [sys.executable, "-m", "kamstrup_mqtt", "decode", telegram], capture_output=True, check=True
    )
    assert b"energy (60) = 55.006 MWh" in done.stdout


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [ROOT / "README.md", *(ROOT / "docs").glob("*.md")], ids=str)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(((?!https:)[^)]+)\)", page.read_text()):
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_node_red_flow_listens_where_we_publish() -> None:
    nodes = {node["id"]: node for node in json.loads((ROOT / "docs/nodered-flow.json").read_text())}
    assert nodes["heat-values"]["topic"] == "kamstrup/values"
    assert nodes["heat-read"]["topic"] == "kamstrup/read"
    assert wanted_readout(nodes["heat-button"]["payload"].encode()).registers == (80, 60)


def test_the_states_are_those_of_the_readme() -> None:
    table = README[README.index("| state | meaning |") : README.index("### What it listens to")]
    assert [row[0].strip("`") for row in rows(table)] == list(LinkState)
    for topic in commands.COMMANDS:
        assert f"| `<topic>/{topic}` |" in README


def test_the_findings_of_the_doctor_are_all_explained() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    table = page[page.index("| finding | meaning |") :]
    assert [row[0].strip("`") for row in rows(table)] == list(Finding)


@pytest.mark.parametrize("model", ["402", "403", "603"])
def test_the_drawings_are_drawings_and_can_be_read_aloud(model: str) -> None:
    drawing = ET.parse(ROOT / "docs" / "images" / f"placing-{model}.svg").getroot()
    namespace = {"svg": "http://www.w3.org/2000/svg"}
    title, description = drawing.find("svg:title", namespace), drawing.find("svg:desc", namespace)
    assert title is not None
    assert title.text == f"Placing the head on a MULTICAL {model}"
    assert description is not None
    assert drawing.get("role") == "img"


def test_the_systemd_unit_is_valid(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    unit = (ROOT / "src/kamstrup_mqtt/gateway/kamstrup-mqtt.service").read_text()
    program = "/opt/kamstrup-mqtt/bin/kamstrup-mqtt"
    assert f"ExecStart={program} run" in unit
    path = tmp_path / "kamstrup-mqtt.service"
    path.write_text(unit.replace(program, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False
    )
    assert "kamstrup-mqtt.service" not in done.stderr
    assert done.returncode == 0


def test_compose_passes_the_device_and_the_configuration() -> None:
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["kamstrup-mqtt"]
    assert service["devices"] == ["/dev/ttyUSB0:/dev/ttyUSB0"]
    assert service["volumes"] == ["./config.yaml:/config/config.yaml:ro", "history:/data"]
    assert "/config/config.yaml" in (ROOT / "Dockerfile").read_text()
