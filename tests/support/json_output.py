"""What ``--json`` prints, checked against the schema that is in the package."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from cleveragents_plans.cli.json_schema import FILE


def validated(output: str) -> Any:
    """Read *output*; raise ``ValidationError`` where it is not as the schema says."""
    found = json.loads(output)
    _validator().validate(found)
    return found


@cache
def _validator() -> Draft202012Validator:
    schema = json.loads(FILE.read_text())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)
