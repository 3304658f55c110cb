"""What README.md and docs/ say is so: commands exist, links lead somewhere, tables are fresh."""

import re
import shlex
import subprocess
import sys
import textwrap
from importlib import import_module
from pathlib import Path

import pytest

from pipeline import cli, docs
from pipeline.parameters import CONFIGS, SETTINGS, config_names, load_config, parameters, resolve
from tests.shell_blocks import blocks

ROOT = Path(__file__).parents[2]
PAGES = docs.pages()


def commands(page: Path) -> list[str]:
    """The lines of the shell blocks of a page, continued lines joined, comments taken off."""
    text = "".join(block.commands for block in blocks(page))
    lines = re.sub(r"(\\|\|)\n", r"\1 ", text).replace("\\ ", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def arguments_of(program: str, command: str) -> list[list[str]]:
    """The arguments of each part of a command line that runs `program`."""
    found = []
    for part in re.split(r"&&|\|\|?|;|\s&$|\s[<>]\s", command):
        first, _, rest = re.sub(r"^\s*(\w+=\S*\s+)*", "", part).partition(" ")
        if Path(first).name == program:
            found.append(shlex.split(rest))
    return found


ALL = [(page.name, command) for page in PAGES for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), ALL)
def test_commands_of_race_parse(page: str, command: str) -> None:
    for arguments in arguments_of("race", command):
        parsed = cli._parser().parse_args(arguments)
        for assignment in getattr(parsed, "assignments", ()):
            assert assignment.partition("=")[0] in {*parameters(), *SETTINGS}
        config = getattr(parsed, "config", None)
        if config and not config.endswith(".yaml"):
            load_config(config)


@pytest.mark.parametrize(("page", "command"), ALL)
def test_options_of_steps_exist(page: str, command: str) -> None:
    for module in re.findall(r"-m (components\.\S+)", command):
        assert import_module(f"{module}.__main__")
        given = set(re.findall(r"\s(--[a-z][a-z-]+)", command.partition(module)[2]))
        if given - {"--help"}:
            shown = subprocess.run(
                [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
            ).stdout
            assert given <= set(re.findall(r"--[a-z][a-z-]+", shown))


@pytest.mark.parametrize(("page", "command"), ALL)
def test_targets_of_make_exist(page: str, command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for arguments in arguments_of("make", command):
        for word in arguments:
            assert "=" in word or word in targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_configs_in_a_page_are_configs(page: Path, tmp_path: Path) -> None:
    for content in re.findall(r"^ *```yaml\n(.*?)^ *```$", page.read_text(), re.M | re.S):
        (tmp_path / "own.yaml").write_text(textwrap.dedent(content))
        resolve(load_config(str(tmp_path / "own.yaml")), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in link:
            assert (page.parent / link).exists(), link


def test_every_config_is_named() -> None:
    text = (ROOT / "README.md").read_text()
    assert CONFIGS.is_dir()
    assert all(f"`{name}`" in text for name in config_names())
