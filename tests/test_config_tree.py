"""The tree that bindings describe is what gin itself would build, without building it."""

import textwrap

import gin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sslkit import config, registry
from sslkit.config.build import Builder
from sslkit.registry import Known


class Leaf:
    def __init__(self, n: int = 0, m: int = 0):
        self.n, self.m = n, m


class Pair:
    def __init__(self, left: object = None, right: object = None, n: int = 0):
        self.left, self.right, self.n = left, right, n


def start(*, a: object = None, b: object = None, n: int = 0) -> None:
    """What the toy configurations bind, as others bind `train`."""


TOYS = {
    "toys.Leaf": Known("toys.Leaf", Leaf, "component"),
    "toys.Pair": Known("toys.Pair", Pair, "component"),
    "start": Known("start", start, "entry"),
}
gin.register("Leaf", module="toys")(Leaf)
gin.register("Pair", module="toys")(Pair)
_seen = {}
call_start = gin.external_configurable(lambda a=None, b=None, n=0: _seen.update(a=a, b=b, n=n), name="start")


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    monkeypatch.setattr(registry, "_KNOWN", {**TOYS, "singleton": registry._KNOWN["singleton"]})
    monkeypatch.setattr(registry, "load", list)


def plain(value, seen):
    """Objects as tuples, each with the number of the object that it is."""
    if isinstance(value, dict):
        return {k: plain(v, seen) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [type(value).__name__, *(plain(v, seen) for v in value)]
    if isinstance(value, (Leaf, Pair)):
        is_new = id(value) not in seen
        number = seen.setdefault(id(value), len(seen))
        return (type(value).__name__, number, plain(vars(value), seen) if is_new else "again")
    return value


def by_gin(text):
    gin.clear_config(clear_constants=True)
    gin.config._SINGLETONS.clear()
    gin.parse_config(text)
    call_start()
    return plain(dict(_seen), {})


def by_us(text, tmp_path):
    file = tmp_path / "toy.gin"
    file.write_text(text)
    tree = config.examine([str(file)])[0].tree
    assert not tree.problems
    return plain(Builder().arguments(tree.entries["start"]), {})


@pytest.mark.parametrize(
    "text",
    [
        "start.n = 3",
        "start.a = @Leaf()\nLeaf.n = 1\nx/Leaf.n = 2",
        "start.a = @x/Leaf()\nLeaf.n = 1\nx/Leaf.n = 2",
        "start.a = @x/y/Leaf()\nLeaf.n = 1\nx/Leaf.n = 2\nx/Leaf.m = 5\nx/y/Leaf.n = 3\ny/Leaf.m = 9",
        "start.a = @x/Pair()\nPair.left = @Leaf()\nx/Leaf.n = 2",
        "start.a = @x/Pair()\nPair.left = @y/Leaf()\nx/Leaf.n = 2\ny/Leaf.m = 3",
        "start.a = @x/Pair()\nPair.left = %M\nM = @Leaf()\nx/Leaf.n = 2\nM/Leaf.n = 3",
        "start.a = @x/Pair()\nPair.left = %M\nM = %N\nN = @Leaf()\nM/Leaf.n = 2\nN/Leaf.n = 3",
        "start.a = %x/M\nx/M = @Leaf()\nM = 4\nx/Leaf.n = 2\nx/M/Leaf.m = 3",
        "start.a = [%M, %M]\nM = @Leaf()",
        "start.a = {'k': (@Leaf(), [@x/Leaf()])}\nx/Leaf.n = 1",
        "start.n = 1\nstart.n = 2",
        "start.a = @Leaf()\ntoys.Leaf.n = 1\nLeaf.n = 2",
        "start.a = @s/singleton()\nstart.b = @s/singleton()\ns/singleton.constructor = @Leaf\ns/Leaf.n = 3",
        "start.a = @s/singleton()\nstart.b = @t/singleton()\ngin.singleton.constructor = @Leaf\nt/Leaf.n = 3",
        "start.a = @s/singleton()\nstart.b = @s/singleton()\ns/singleton.constructor = @x/Leaf\nx/Leaf.n = 4",
        "start.a = @x/Pair()\nPair.left = @s/singleton()\nPair.right = @s/singleton()\ns/singleton.constructor = @Leaf",
        "start:\n  n = 3\n  a = @Leaf()\nx/Leaf:\n  n = 2",
    ],
)
def test_the_tree_is_what_gin_builds(text, tmp_path):
    ours = text.replace("gin.singleton", "singleton")
    assert by_us(ours, tmp_path) == by_gin(text)


SCOPES = ("", "x/", "y/", "x/y/")


@st.composite
def configurations(draw):
    """Bindings of toys in scopes, by macros and in containers, none of them inside itself."""
    scope = st.sampled_from(SCOPES)
    number = st.integers(0, 9).map(str)
    leaf = scope.map(lambda s: f"@{s}Leaf()")
    macro = st.sampled_from(["%M", "%x/M"])
    inner = st.one_of(number, leaf, macro)
    value = st.one_of(
        inner,
        scope.map(lambda s: f"@{s}Pair()"),
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.lists(inner, max_size=2).map(lambda items: "{" + ", ".join(f"{i}: {x}" for i, x in enumerate(items)) + "}"),
    )
    lines = [f"M = {draw(st.one_of(number, leaf))}", f"x/M = {draw(st.one_of(number, leaf))}"]
    for parameter in draw(st.lists(st.sampled_from("ab"), min_size=1, max_size=3)):
        lines.append(f"start.{parameter} = {draw(value)}")
    for _ in range(draw(st.integers(0, 8))):
        name = draw(st.sampled_from(["Leaf.n", "Leaf.m", "toys.Leaf.n", "Pair.n", "Pair.left", "toys.Pair.right"]))
        given_scope = draw(st.sampled_from([*SCOPES, "M/", "x/M/"]))
        lines.append(f"{given_scope}{name} = {draw(inner if name.endswith(('left', 'right')) else number)}")
    return "\n".join(draw(st.permutations(lines)))


def test_any_tree_is_what_gin_builds(tmp_path):
    @settings(max_examples=300, derandomize=True, deadline=None, database=None)
    @given(configurations())
    def same(text):
        assert by_us(text, tmp_path) == by_gin(text)

    same()


def test_the_text_as_used_reads_back_to_the_same_tree(tmp_path):
    @settings(max_examples=150, derandomize=True, deadline=None, database=None)
    @given(configurations())
    def same(text):
        file = tmp_path / "toy.gin"
        file.write_text(text)
        once = config.examine([str(file)])[0].operative
        file.write_text(once)
        again, problems = config.examine([str(file)])
        assert not problems
        assert again.operative == once

    same()


def test_an_open_value_asks_without_taking_away(tmp_path):
    text = """
        Leaf.n = 3
        x/Leaf.n = %gin.REQUIRED
        start.a = @x/Leaf()
    """
    assert by_us(textwrap.dedent(text), tmp_path)["a"] == ("Leaf", 0, {"n": 3, "m": 0})
