"""A small installable package for a new component: it works, is tested, and is there to be changed."""

from __future__ import annotations

import builtins
import importlib.util
import keyword
import re
import sys
from pathlib import Path
from string import Template

from sslkit.errors import ConfigError
from sslkit.registry import ROLES, components, did_you_mean, load

TEMPLATES = Path(__file__).resolve().parent / "templates"
ONE_OF = {
    "augmenter": "augmenters",
    "masking": "maskings",
    "dataset": "datasets",
    "backbone": "backbones",
    "head": "heads",
    "centering": "centerings",
    "clusterer": "clusterers",
    "matcher": "matchers",
    "memory": "memories",
    "aligner": "aligners",
    "loss": "losses",
    "schedule": "schedules",
    "evaluation": "evaluate",
}


def write(role: str, name: str, folder: Path) -> list[Path]:
    """The files of a package with a component `name` of the role, a folder that holds nothing else.

    Args:
        role: such as `"clusterer"`, or `"clusterers"` as in the registry.
        name: of the class, such as `"SoftVoronoi"`; its module is then `soft_voronoi`.

    Raises:
        ConfigError: the role does not exist, the name is no class name, is taken or would hide another, or the folder
            is not empty.
    """
    role = _full(role)
    module = module_of(name)
    source = _template(role, "component.py")
    _refuse_name(role, name, module, source)
    try:
        folder = folder.expanduser()
    except RuntimeError as error:
        raise ConfigError(f"--out {folder}: {error}") from error
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is there already and is not an empty folder: give one that is, or a new one")
    words = {"Name": name, "module": module, "dashed": module.replace("_", "-"), "role": role}
    texts = {
        "pyproject.toml": _template(role, "pyproject.toml"),
        f"{module}.py": source,
        f"test_{module}.py": _template(role, "test.py"),
        "example.gin": _template(role, "example.gin"),
        "README.md": _template(role, "README.md"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in texts.items():
        (folder / file).write_text(Template(text).substitute(words))
    return [folder / file for file in texts]


def module_of(name: str) -> str:
    """`soft_voronoi` for `SoftVoronoi`.

    Example:
        >>> module_of("KMeans"), module_of("VICReg")
        ('k_means', 'vic_reg')
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _full(role: str) -> str:
    if role not in (*ROLES, *ONE_OF):
        hint = did_you_mean(role, (*ONE_OF, *ROLES), after="; ")
        raise ConfigError(f"there is no role {role!r}{hint}; the roles are {', '.join(ONE_OF)}")
    return ONE_OF.get(role, role)


def _template(role: str, file: str) -> str:
    """What is written, with `$Name` and `$module` in place of the names; the role's own file, or that of all roles."""
    own = TEMPLATES / role / f"{file}.txt"
    return (own if own.is_file() else TEMPLATES / f"{file}.txt").read_text()


def _refuse_name(role: str, name: str, module: str, source: str) -> None:
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        words = [word for word in re.split(r"[^A-Za-z0-9]+|^[0-9]+", name) if word and not keyword.iskeyword(name)]
        better = "".join(word[0].upper() + word[1:] for word in words) or "SoftVoronoi"
        raise ConfigError(f"name={name!r} is not the name of a class; {better!r} would be")

    load()
    taken = components(role)
    if name in taken:
        raise ConfigError(
            f"{role}.{name} is already taken by {taken[name].__module__}; taken are {', '.join(sorted(taken))}"
        )
    if hasattr(builtins, name) or re.search(rf"^(from|import)\b.*\b{name}\b", source, re.MULTILINE):
        raise ConfigError(f"name={name!r} would hide something that the new module uses: choose another")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or _is_module(module):
        raise ConfigError(f"name={name!r} makes a module {module!r}, which Python knows as something else: add a word")


def _is_module(name: str) -> bool:
    spec = importlib.util.find_spec(name)
    return spec is not None and spec.origin is not None  # any folder passes for a package, but has no origin
