"""What bonelib reports: three errors, and findings of three levels."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

LEVELS = ("alarm", "warning", "note")


class ConfigError(ValueError):
    """A setting that does not exist or has an impossible value; it names what is allowed."""


class DataError(ValueError):
    """Data, or a single file, that cannot be used; it says what was found and what to do."""


class RunError(RuntimeError):
    """A run that cannot continue (weights, checkpoints, disk); the message says what to do."""


@dataclass(frozen=True)
class Finding:
    """One sentence about the data or the model.

    alarm: the results cannot be trusted; warning: read them with care; note: good to know.
    """

    level: Literal["alarm", "warning", "note"]
    text: str


def sort_findings(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by level, alarms first, each text once."""
    return sorted(dict.fromkeys(findings), key=lambda finding: LEVELS.index(finding.level))
