"""The README and the docs: Python blocks run, page by page; commands and recipes are read as in use."""

import re
import shlex
from pathlib import Path

import pytest
import typer
import yaml

from hmmoe.cli import app
from hmmoe.engine.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


COMMANDS = [
    (page.name, line)
    for page in PAGES
    for block in blocks(page, "bash")
    for line in block.splitlines()
    if line.startswith("hmmoe ")
]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_python_blocks_run(page):
    names: dict[str, object] = {"__name__": "docs"}
    for number, block in enumerate(blocks(page)):
        exec(compile(block, f"{page.name}, block {number + 1}", "exec"), names)


@pytest.mark.parametrize(("page", "line"), COMMANDS)
def test_commands_are_read_and_name_recipes_and_keys_that_exist(page, line):
    words = shlex.split(line, comments=True)[1:]
    command = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    given = command.make_context(command.name, list(words)).params
    if "recipe" in given:
        Recipe.load(ROOT / given["recipe"], ["data_root=/data", *(given["overrides"] or ())])


@pytest.mark.parametrize(
    ("page", "block"), [(page.name, block) for page in PAGES for block in blocks(page, "yaml")]
)
def test_recipes_are_read_as_they_stand_or_on_top_of_another(page, block, tmp_path):
    tree = {"base": "easy_vqa.yaml"} | yaml.safe_load(block)
    (tmp_path / "page.yaml").write_text(yaml.safe_dump(tree | {"base": str(ROOT / "recipes" / tree["base"])}))
    Recipe.load(tmp_path / "page.yaml")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"
