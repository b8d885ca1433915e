"""The section `web` of the configuration."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from kamstrup_mqtt.consumption import Price
from kamstrup_mqtt.web.access import is_hash
from kamstrup_mqtt.web.hosts import host_name
from kamstrup_mqtt.web.peers import parse_network


def _is_address(text: str) -> str:
    parts = urlsplit(f"//{text}")
    if not parts.hostname or parts.port is None or parts.path:
        raise ValueError(f"'{text}' is no address and port, such as 127.0.0.1:8402")
    return text


def _is_hash(text: str) -> str:
    if not is_hash(text):
        raise ValueError("expected what `kamstrup-mqtt password` prints")
    return text


def _is_network(text: str) -> str:
    parse_network(text)
    return text


def _listed(value: object) -> object:
    """A list, where there is one word, or several with commas between, as in the environment."""
    if not isinstance(value, str):
        return value
    return [word.strip() for word in value.split(",") if word.strip()]


_Peers = Annotated[
    list[Annotated[str, AfterValidator(_is_network)]],
    BeforeValidator(_listed),
    Field(description="a list of addresses such as 192.168.1.5 or networks such as 192.168.1.0/24"),
]
_Names = Annotated[
    list[Annotated[str, AfterValidator(host_name)]],
    BeforeValidator(_listed),
    Field(description="a list of host names such as heat.example.org"),
]


class WebSettings(BaseModel):
    """Where the page is, and who may see it. Descriptions say what is expected."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    listen: Annotated[str, AfterValidator(_is_address)] = Field(
        default="127.0.0.1:8402", description="an address and port such as 127.0.0.1:8402"
    )
    password: Annotated[str, AfterValidator(_is_hash)] | None = Field(
        default=None, description="what `kamstrup-mqtt password` prints"
    )
    allow: _Peers = []
    hosts: _Names = []
    trusted_proxies: _Peers = []
    outdoor_topic: str | None = Field(
        default=None, pattern=r"^[^+#\x00]+$", description="a topic without the wildcards + and #"
    )
    # Read still, though they are sections of their own.
    currency: str | None = Field(default=None, max_length=8, description="such as EUR or DKK")
    prices: list[Price] = Field(default=[], description="a list of since, price and per")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to listen on."""
        parts = urlsplit(f"//{self.listen}")
        return parts.hostname or "", parts.port or 0
