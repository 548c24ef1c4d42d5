"""The page itself: numbers, figures and samples into one template."""

import base64
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MIME = {"png": "image/png", "wav": "audio/wav"}


def write_report(
    path: Path,
    recipe: Any,
    environment: Mapping[str, Any],
    metrics: Mapping[str, Any],
    samples: list[dict[str, Any]],
) -> None:
    """Write the report of a run.

    Args:
        path: the HTML file.
        recipe: the resolved `Recipe`.
        environment: versions and machine, as in environment.json.
        metrics: as in metrics.json, with the curves and, where the model routes, the mean routing.
        samples: what `Task.show` said of some test rows.
    """
    from hmmoe.report.figures import curves, routing_map

    routing = metrics.get("routing")
    text = template("report.html.jinja").render(
        recipe=recipe,
        recipe_yaml=recipe.to_yaml(),
        environment=environment,
        metrics=metrics,
        metrics_json=json.dumps({k: v for k, v in metrics.items() if k != "curves"}, indent=1),
        curves=curves(metrics["curves"], metrics["metric"], metrics["best_step"]),
        routing=routing_map(routing) if routing else None,
        samples=samples,
    )
    path.write_text(text, encoding="utf-8")


def template(name: str) -> Any:
    """One of the templates beside this file."""
    from jinja2 import Environment, PackageLoader

    pages = Environment(
        loader=PackageLoader("hmmoe", "report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    pages.filters["uri"] = data_uri
    pages.tests["strip"] = is_strip
    return pages.get_template(name)


def data_uri(data: bytes, kind: str) -> str:
    """A picture or a sound as a `data:` address, so that the page needs no other file."""
    return f"data:{MIME[kind]};base64,{base64.b64encode(data).decode()}"


def is_strip(png: bytes) -> bool:
    """Is this picture a strip of frames, much wider than high? (Width and height stand in a PNG's header.)"""
    width, height = struct.unpack(">II", png[16:24])
    return width > 4 * height
