"""An example client: has ComfyUI make the outputs of a template or a workflow, and saves them."""

from __future__ import annotations

import argparse
import base64
import binascii
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pyworker.client import Client, ClientError
from pyworker.client.options import add_client_options, client_from
from pyworker.errors import ConfigError, JsonDataException
from workers.comfyui.data_types import ComfyPayload, CustomWorkflow, TemplatePrompt
from workers.comfyui.settings import TEMPLATES
from workers.comfyui.templates import read_template
from workers.comfyui.workflows import as_list, as_object

PROG = "python -m workers.comfyui.client"


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 if the call failed."""
    parser = _parser()
    options = parser.parse_args(argv)
    try:
        route, payload = _request(options)
    except (ConfigError, JsonDataException) as error:
        detail = error.json_msg if isinstance(error, JsonDataException) else ""
        parser.error(f"{error} {dict(detail) if detail else ''}".strip())
    with client_from(parser, options) as client:
        try:
            return _call(client, route, payload, options.folder)
        except (ClientError, OSError) as error:
            sys.stderr.write(f"{PROG}: {error}\n")
            return 1
        except KeyboardInterrupt:
            return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROG, description="Have ComfyUI make images.")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--template", default="text_to_image", metavar="NAME", help="a template (default: %(default)s)"
    )
    what.add_argument(
        "--workflow", type=Path, metavar="FILE", help="a workflow of your own, exported with Export (API)"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="values",
        metavar="NAME=VALUE",
        help="a parameter of the template: JSON, or text that is no JSON; may be repeated",
    )
    parser.add_argument(
        "-o",
        "--folder",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where to save the outputs (default: the current folder)",
    )
    add_client_options(parser)
    return parser


def _request(options: argparse.Namespace) -> tuple[str, ComfyPayload]:
    """Raises `ConfigError` for a file that is no workflow, `JsonDataException` for a wrong value."""
    if options.workflow is not None:
        return "/custom_workflow", CustomWorkflow(read_template(options.workflow).workflow)
    # Read only to estimate the work: the worker has templates of its own.
    TemplatePrompt.library.load(TEMPLATES)
    values = {name: _value(text) for name, _, text in (item.partition("=") for item in options.values)}
    return "/prompt", TemplatePrompt(options.template, values)


def _value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _call(client: Client, route: str, payload: ComfyPayload, folder: Path) -> int:
    response = client.call(route, dataclasses.asdict(payload), payload.count_workload())
    if response.status_code != 200:
        text = response.content.decode("utf-8", "replace")
        sys.stderr.write(f"{PROG}: the worker responded with {response.status_code}: {text}\n")
        return 1
    body = as_object(response.json())
    if body.get("message") != "completed":
        sys.stderr.write(f"{PROG}: {body.get('message')}\n")
    for output in as_list(body.get("output")):
        _save(as_object(output), folder)
    return 0


def _save(output: Mapping[str, Any], folder: Path) -> None:
    """Raises OSError if the file cannot be written."""
    data = output.get("data")
    # Only the last part of the name: it comes from elsewhere.
    name = Path(str(output.get("filename"))).name
    if not isinstance(data, str) or not name:
        sys.stderr.write(f"{PROG}: {name}: {output.get('error', 'no data')}\n")
        return
    try:
        content = base64.b64decode(data.partition(",")[2] if data.startswith("data:") else data)
    except binascii.Error:
        sys.stderr.write(f"{PROG}: {name}: not base64\n")
        return
    path = folder / name
    path.write_bytes(content)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    sys.exit(main())
