"""
The JSON schema of what ``--json`` prints, which is in the package as ``output.schema.json``.

``python -m cleveragents_plans.cli.json_schema`` prints it anew, after a report was changed.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter

from cleveragents_plans.cli.fleet import FleetReport
from cleveragents_plans.cli.history import HistoryReport
from cleveragents_plans.cli.plans import PlansReport
from cleveragents_plans.cli.preflight import PreflightReport
from cleveragents_plans.cli.profiles import ProfilesReport
from cleveragents_plans.cli.reports import FORMAT, RunReport
from cleveragents_plans.cli.show import ShowReport
from cleveragents_plans.cli.spec import SpecReport
from cleveragents_plans.cli.status import StatusReport
from cleveragents_plans.cli.tree import TreeReport
from cleveragents_plans.cli.verify import VerifyReport

_Report = Annotated[
    FleetReport
    | HistoryReport
    | PlansReport
    | PreflightReport
    | ProfilesReport
    | RunReport
    | ShowReport
    | SpecReport
    | StatusReport
    | TreeReport
    | VerifyReport,
    Field(discriminator="command"),
]

#: Where it is kept.
FILE: Final = files("cleveragents_plans.cli") / "output.schema.json"


def json_schema() -> dict[str, Any]:
    """Describe every report of the program, by its field ``command``."""
    described = TypeAdapter(_Report).json_schema(mode="serialization")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"Output of cleveragents-plans --json, format {FORMAT}",
        **described,
    }


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
