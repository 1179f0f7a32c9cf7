"""JSON that commands print, compared with the documented schemas in docs/_static/json/."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema

import gi2nnunet

SCHEMAS = Path(gi2nnunet.__file__).parents[1] / "docs" / "_static" / "json"


@cache
def read_schema(command: str) -> dict[str, Any]:
    """The documented schema of a command."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{command}.schema.json").read_text())
    return schema


def close(schema: Any) -> Any:
    """A schema that refuses keys that it does not name."""
    if isinstance(schema, list):
        return [close(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: close(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        closed["additionalProperties"] = False
    return closed


@cache
def _make_validator(command: str) -> Any:
    schema = close(read_schema(command))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")


def check_output(words: Sequence[object], out: str) -> Any:
    """Assert that a command printed what its schema says, and no other key; return the object.

    Nothing is asserted without ``--json``, or of a command that printed nothing because it failed.
    """
    if "--json" not in words or not out:
        return None
    content = json.loads(out, parse_constant=_refuse)
    assert next(iter(content)) == "format"
    command = next(str(word) for word in words if not str(word).startswith("-"))
    _make_validator(command).validate(content)
    return content
