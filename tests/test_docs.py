"""What the docs show runs, what they link to exists, and they speak of every component."""

import re
import shlex

import pytest
from click.testing import CliRunner

from sslkit import config, diagram
from sslkit.cli import main
from sslkit.launch.job import ready
from sslkit.registry import ROLES, components
from tests.conftest import ROOT

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "experiments").rglob("*.md")),
]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SHOWN = re.compile(r"^```console\n\$ (?P<command>.*?)\n(?P<output>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


def blocks(language):
    found = ((page, code) for page in PAGES for kind, code in BLOCK.findall(page.read_text()) if kind == language)
    return [pytest.param(code, id=f"{page.relative_to(ROOT)}-{n}") for n, (page, code) in enumerate(found)]


def gin_blocks():
    return [p for p in blocks("") if "include 'gin/" in p.values[0]]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_in_the_docs_runs(code):
    exec(compile(code, "docs", "exec"), {})


@pytest.mark.parametrize("text", gin_blocks())
def test_gin_in_the_docs_builds(text, tmp_path):
    file = tmp_path / "docs.gin"
    is_whole = re.search(r"include 'gin/\w+\.gin'", text)
    file.write_text(text if is_whole else "include 'gin/cribo.gin'\n" + text)
    assert ready([str(file)], []).build("train")


def printed(command):
    """What a command of the docs prints, `| head -n N` understood."""
    words = shlex.split(command)
    name, *words = words
    lines = None
    if "|" in words:
        assert words[-3:-1] == ["head", "-n"]
        lines, words = int(words[-1]), words[: words.index("|")]
    if name == "cat":
        shown = (ROOT / words[0]).read_text().splitlines()
    else:
        assert name == "sslkit"
        done = CliRunner().invoke(main, words, env={"COLUMNS": "110"}, prog_name="sslkit")
        shown = [line.rstrip() for line in done.output.splitlines()]
    return "\n".join([*shown[:lines], *(["..."] if lines is not None and len(shown) > lines else [])]) + "\n"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if SHOWN.search(p.read_text())], ids=lambda p: str(p.relative_to(ROOT))
)
def test_shown_output_is_what_the_command_prints(page, pytestconfig, monkeypatch):
    monkeypatch.chdir(ROOT)
    text = page.read_text()
    now = SHOWN.sub(lambda m: f"```console\n$ {m['command']}\n{printed(m['command'])}```", text)
    if pytestconfig.getoption("--write-docs"):
        page.write_text(now)
    assert now == page.read_text()  # `pytest tests/test_docs.py --write-docs` renews them


def test_the_picture_of_the_flow_is_what_describe_draws(pytestconfig, monkeypatch):
    monkeypatch.chdir(ROOT)
    picture = ROOT / "docs" / "cribo_flow.svg"
    drawn = diagram.draw(config.load(["gin/cribo.gin"]))
    if pytestconfig.getoption("--write-docs"):
        picture.write_text(drawn)
    assert drawn == picture.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for link in LINK.findall(page.read_text()):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}
            assert anchor in slugs, link


@pytest.mark.parametrize("role", ROLES)
def test_the_page_of_roles_speaks_of_every_component(role):
    section = (ROOT / "docs/roles.md").read_text().partition(f"\n## {role}\n")[2].partition("\n## ")[0]
    for name in components(role):
        assert f"| `{name}` |" in section
