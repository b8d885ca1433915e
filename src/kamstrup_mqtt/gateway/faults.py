"""What pydantic finds in the configuration, in our words."""

from collections.abc import Mapping

from pydantic import BaseModel, ValidationError

from kamstrup_mqtt.errors import did_you_mean
from kamstrup_mqtt.gateway.document import KeyPath
from kamstrup_mqtt.gateway.source import MOST_FAULTS, Source


def note_faults(
    source: Source,
    error: ValidationError,
    file: type[BaseModel],
    sections: Mapping[str, type[BaseModel]],
) -> None:
    """Note all that is wrong, up to what anybody reads.

    Args:
        source: takes the faults.
        error: what was found.
        file: the model of the whole configuration, whose descriptions say what is expected.
        sections: the models of its sections by name.

    """
    for detail in error.errors(include_url=False)[: MOST_FAULTS + 1]:
        loc, kind, given = detail["loc"], detail["type"], detail["input"]
        model, key = file, str(loc[0])
        inside = [part for part in loc[1:] if isinstance(part, str)]
        if inside and key in sections:
            model, key = sections[key], inside[0]
        known = model.model_fields.get(key)
        if kind == "extra_forbidden" or known is None:
            near = did_you_mean(key, model.model_fields)
            source.fault(loc, f"unknown key '{key}'{near or _known(model)}")
        elif kind == "missing":
            source.fault(loc, f"required, but missing; expected {known.description}")
        elif kind == "value_error" and (words := str(detail.get("ctx", {}).get("error", ""))):
            source.fault(loc, words)
        else:
            source.fault(loc, f"expected {_expected(loc, known.description)}{_got(key, given)}")


def _expected(loc: KeyPath, description: str | None) -> str:
    if len(loc) == 2 and loc[0] == "meters":
        return "a meter with name, port, parameters and poll_interval"
    return description or "another value"


def _known(model: type[BaseModel]) -> str:
    return f"; known are {', '.join(model.model_fields)}"


def _got(key: str, given: object) -> str:
    if key == "password":
        return ""  # never into a log
    if isinstance(given, str):
        return f", got '{given[:60]}'"
    kinds = {dict: "a section", list: "a list", type(None): "nothing"}
    return f", got {kinds.get(type(given), 'something else')}"
