"""Settings as people write them: texts with commas, JSON, and errors that name what is allowed."""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationError

from bonelib.messages import ConfigError


def _from_commas(value):
    """Values that may be given as one text, separated by commas; "none" is an empty tuple."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        return () if parts == ["none"] else tuple(parts)
    return value


def _place(value):
    """A path without the quotes it was copied with; a Kaggle page's address as owner/name."""
    text = value.strip().strip("\"'") if isinstance(value, str) else value
    page = re.match(r"https?://(?:www\.)?kaggle\.com/datasets/([\w-]+/[\w.-]+)", str(text))
    return page[1] if page else text


def _from_json(value):
    if isinstance(value, str):
        try:
            return json.loads(value)
        except (ValueError, RecursionError) as error:
            raise ValueError('expected JSON such as {"a": "b"}') from error
    return value


Commas = BeforeValidator(_from_commas)
Json = BeforeValidator(_from_json)
Place = Annotated[str, BeforeValidator(_place)]
Texts = Annotated[tuple[str, ...], Commas]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Numbers = Annotated[tuple[NotNegative, ...], Commas]
Positives = Annotated[tuple[Annotated[float, Field(ge=1e-6, allow_inf_nan=False)], ...], Commas]


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """ConfigError for a setting that does not exist, with the nearest name that does."""
    known = list(known)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ConfigError(f"no setting is called {name!r}: {hint}")


def config_error(error: ValidationError) -> ConfigError:
    """The first problem that pydantic found: the field, its value, and what is allowed."""
    first = error.errors()[0]
    message = first["msg"].removeprefix("Value error, ")
    if not first["loc"]:
        return ConfigError(message)
    return ConfigError(f"{first['loc'][0]} = {first['input']!r}: {message}")
