"""The description of the API (OpenAPI) as a page to read, which loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any


def api_page(description: dict[str, Any]) -> str:
    """Return HTML for an OpenAPI description."""
    schemas = description.get("components", {}).get("schemas", {})
    operations = "".join(
        _operation(method, path, operation, schemas)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    )
    answers = _answers(description["paths"])
    shapes = "".join(_shape(name, schema) for name, schema in schemas.items() if name in _named(answers, schemas))
    info = description["info"]
    about = "".join(f"<p>{_code(paragraph)}</p>" for paragraph in info["description"].strip().split("\n\n"))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{escape(info["title"])}: API</title><link rel="stylesheet" href="/page.css"></head><body class="api"><main>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}: API</h1>{about}"
        '<p>For programs: <a href="/openapi.json">openapi.json</a>. <a href="/">To the page</a></p>'
        f"<h2>Requests</h2>{operations}<h2>Answers</h2>{shapes}</main></body></html>"
    )


def _answers(paths: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the schemas of all answers."""
    return [
        content["schema"]
        for methods in paths.values()
        for operation in methods.values()
        for answer in operation["responses"].values()
        for content in answer.get("content", {}).values()
        if content.get("schema")
    ]


def _named(found: list[dict[str, Any]], schemas: dict[str, Any]) -> set[str]:
    """Return the names of the schemas that some schemas refer to, directly or through others; forms are not among them."""
    names: set[str] = set()
    waiting: list[Any] = list(found)
    while waiting:
        node = waiting.pop()
        if isinstance(node, list):
            waiting += node
        elif isinstance(node, dict):
            name = str(node.get("$ref", "")).rpartition("/")[2]
            if name and name not in names:
                names.add(name)
                waiting.append(schemas[name])
            waiting += [value for value in node.values() if isinstance(value, (dict, list))]
    return names


def _operation(method: str, path: str, operation: dict[str, Any], schemas: dict[str, Any]) -> str:
    rows = [
        _row(
            parameter["name"],
            f"in the {parameter['in']}",
            parameter["schema"],
            parameter.get("description", ""),
            parameter.get("required", False),
        )
        for parameter in operation.get("parameters", [])
    ]
    for kind, body in operation.get("requestBody", {}).get("content", {}).items():
        form = schemas[body["schema"]["$ref"].rpartition("/")[2]]
        rows += [
            _row(name, kind, described, described.get("description", ""), name in form.get("required", []))
            for name, described in form["properties"].items()
        ]
    answers = "".join(
        f"<li><b>{escape(code)}</b> {escape(answer.get('description', ''))}"
        + "".join(f": {_type(content['schema'])}" for content in answer.get("content", {}).values() if content.get("schema"))
        + "</li>"
        for code, answer in operation["responses"].items()
    )
    table = f"<table>{''.join(rows)}</table>" if rows else ""
    return (
        f"<section><h3><code>{escape(method.upper())} {escape(path)}</code></h3><p>{escape(operation.get('summary', ''))}</p>"
        f"{table}<details><summary>Answers</summary><ul>{answers}</ul></details></section>"
    )


def _shape(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = "".join(
        _row(field, "", described, described.get("description", ""), field in required)
        for field, described in schema.get("properties", {}).items()
    )
    about = escape(schema.get("description", ""))
    return f'<section id="{escape(name)}"><h3>{escape(name)}</h3><p>{about}</p><table>{rows}</table></section>'


def _row(name: str, place: str, schema: dict[str, Any], about: str, required: bool) -> str:
    need = "" if required else "optional"
    facts = ", ".join(part for part in (place, need) if part)
    return f"<tr><td><code>{escape(name)}</code></td><td>{_type(schema)}<br>{facts}</td><td>{escape(about)}</td></tr>"


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_type(option) for option in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_type(schema['items'])}"
    if schema.get("contentMediaType") or schema.get("format") == "binary":
        return "file"
    return escape(str(schema.get("type", "anything")))


def _code(text: str) -> str:
    """Return escaped text in which `parts` are code."""
    parts = escape(text).split("`")
    return "".join(f"<code>{part}</code>" if place % 2 else part for place, part in enumerate(parts))
