"""Pictures are well-formed, say what the file says, and keep their parts apart."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

import sslkit.components  # noqa: F401
from sslkit import config, registry
from sslkit.aligners import Aligner
from sslkit.diagram import draw
from sslkit.diagram.placement import PAD, layout
from sslkit.diagram.text import LEADING, SIZES, width_of
from sslkit.losses import Loss
from sslkit.registry import Known

LONG = "a_very_long_name_of_the_kind_that_nobody_should_give_but_somebody_will"
SEARCHES = f"""
Method.clusterer = @clusterers.Sinkhorn()
clusterers.Sinkhorn.n_clusters = 32
Method.searches = {{'objects': @objects/Search(), '{LONG}': @images/Search(), 'more': @more/Search()}}
Search.matcher = @matchers.Nearest()
Search.memory = @memories.Queue()
memories.Queue.n_images = 25000
images/Search.level = 'image'
"""
CROPS = """
augmenters.Crops.local_crops = [@small/augmenters.Crop(), @tiny/augmenters.Crop()]
small/augmenters.Crop.size = 96
small/augmenters.Crop.n = 6
tiny/augmenters.Crop.size = 48
tiny/augmenters.Crop.n = %gin.REQUIRED
"""


class PatchesAcrossViewsByNearestPatch(Aligner):
    """Reads patches, in a comprehension."""

    def forward(self, step):
        return [rows.patch for rows in (step.student, step.teacher)]


class ImageToMatch(Aligner):
    """Reads images and the matches of any number of searches."""

    def __init__(self, searches: list):
        super().__init__()

    def forward(self, step):
        return step.student.image, step.matches


class Contrast(Loss):
    """Has values of many kinds."""

    def __init__(self, margin: float, *, symmetric: bool = True, note: str = 'a <note> & "more"', n_negatives: int = 7):
        super().__init__()


@pytest.fixture(autouse=True)
def other_peoples_parts(monkeypatch):
    for name in ("aligners.PatchesAcrossViewsByNearestPatch", "aligners.ImageToMatch", "losses.Contrast"):
        known = Known(name, globals()[name.partition(".")[2]], "component")
        monkeypatch.setitem(registry._KNOWN, name, known)


def terms(*given):
    """Bindings of terms: an aligner, a search or None, a head."""
    names = [f"{LONG}_{i}" if i == 1 else f"t{i}" for i in range(len(given))]
    yield "Method.terms = {" + ", ".join(f"'{name}': @t{i}/Term()" for i, name in enumerate(names)) + "}"
    for i, (aligner, search, head) in enumerate(given):
        yield f"t{i}/Term.aligner = @aligners.{aligner}()"
        yield f"t{i}/Term.head = '{head}'"
        if search:
            name = "searches" if isinstance(search, list) else "search"
            yield f"t{i}/aligners.{aligner}.{name} = {search!r}"


IMAGE, VIEWS = ("ImageAcrossViews", None), ("RegionAcrossViews", None)
ACROSS, FAR, MORE = (("RegionAcrossImages", name) for name in ("objects", LONG, "more"))
PATCH, MATCH = ("PatchesAcrossViewsByNearestPatch", None), ("ImageToMatch", ["objects", LONG])
COMPOSED = {
    "one": [(*IMAGE, "image")],
    "only regions": [(*VIEWS, "image"), (*ACROSS, "image")],
    "only matches": [(*ACROSS, "image"), (*FAR, "image")],
    "images and matches": [(*MATCH, "image"), (*IMAGE, "image")],
    "patches": [(*PATCH, "image"), (*IMAGE, "other")],
    "heads in turn": [(*ACROSS, "b"), (*IMAGE, "a"), (*VIEWS, "b"), (*IMAGE, "b"), (*MORE, "a"), (*VIEWS, LONG)],
    "eight": [(*x, h) for x, h in zip((IMAGE, VIEWS, ACROSS, FAR, MORE, PATCH, MATCH, IMAGE), "aabbccdd", strict=True)],
}


def composed(name):
    return config.examine(
        ["gin/dino.gin"], [*SEARCHES.split("\n")[1:-1], *CROPS.split("\n")[1:-1], *terms(*COMPOSED[name])]
    )[0]


def every():
    for file in config.shipped():
        yield pytest.param(lambda file=file: config.examine([file])[0], id=file)
    for name in COMPOSED:
        yield pytest.param(lambda name=name: composed(name), id=name)


everything = pytest.mark.parametrize("read", list(every()))


def words(settings):
    """All that a picture says, lines of a box joined without their breaks."""
    made = layout(settings)
    said = [" ".join(line for _, line in box.words) for box in made.boxes] + [label.words for label in made.labels]
    return "\n".join(said), re.sub(r"\s", "", "\n".join(said))


def segments(arrow):
    return list(itertools.pairwise(arrow.points))


@everything
def test_a_picture_is_well_formed_and_bears_the_name_of_its_file(read):
    settings = read()
    root = ElementTree.fromstring(draw(settings))
    space = {"svg": "http://www.w3.org/2000/svg"}
    assert root.find("svg:title", space).text == layout(settings).title
    assert root.get("viewBox") and all(text.text for text in root.iterfind("svg:text", space))


@pytest.mark.parametrize("file", config.shipped())
def test_every_term_its_aligner_loss_and_head_are_named(file):
    settings = config.examine([file])[0]
    method = settings.tree.entries["train"].arguments["method"].value if settings.has("train") else None
    said, unbroken = words(settings)
    if not hasattr(method, "arguments"):
        assert "No method here" in said
        return
    for name, term in method.arguments["terms"].value.items():
        assert f"term {name}" in said and f"head {term.arguments['head'].value}" in said
        for part in ("aligner", "loss"):
            assert term.arguments[part].value.known.thing.__name__ in unbroken


@everything
def test_boxes_lie_in_the_picture_and_apart(read):
    made = layout(read())
    for box in made.boxes:
        assert box.x >= 0 and box.y >= 0 and box.right <= made.width and box.bottom <= made.height
    for one, other in itertools.combinations(made.boxes, 2):
        assert one.right < other.x or other.right < one.x or one.bottom < other.y or other.bottom < one.y


@everything
def test_words_fit(read):
    made = layout(read())
    for box in made.boxes:
        assert sum(SIZES[style] * LEADING for style, _ in box.words) <= box.height
        assert all(width_of(line, style) <= box.width - 2 * PAD + 1e-6 for style, line in box.words if style != "sum")
    spans = [(x.x, x.y - SIZES[x.style], x.x + width_of(x.words, x.style), x.y + 3) for x in made.labels]
    spans += [(box.x, box.y, box.right, box.bottom) for box in made.boxes]
    assert all(right <= made.width and bottom <= made.height for _, _, right, bottom in spans)
    for a, b in itertools.combinations(spans, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


@everything
def test_arrows_run_along_the_axes_from_edge_to_edge_and_through_no_box(read):
    made = layout(read())
    for arrow in made.arrows:
        for x, y in (arrow.points[0], arrow.points[-1]):
            on = [
                box
                for box in made.boxes
                if (x in (box.x, box.right) and box.y < y < box.bottom)
                or (y in (box.y, box.bottom) and box.x < x < box.right)
            ]
            assert len(on) == 1
        for (x, y), (z, w) in segments(arrow):
            assert (x == z) != (y == w)
            for box in made.boxes:
                beside = max(x, z) <= box.x or min(x, z) >= box.right or max(y, w) <= box.y or min(y, w) >= box.bottom
                assert beside, (arrow, box)


@everything
def test_lines_from_different_parts_never_run_over_each_other(read):
    for one, other in itertools.combinations(layout(read()).arrows, 2):
        if one.points[0] != other.points[0]:
            for (a, b), (c, d) in itertools.product(segments(one), segments(other)):
                for k in (0, 1):  # both along the other axis, at the same place
                    if a[k] == b[k] and c[k] == d[k] and math.isclose(a[k], c[k], abs_tol=1.0):
                        shared = min(max(a[1 - k], b[1 - k]), max(c[1 - k], d[1 - k])) - max(
                            min(a[1 - k], b[1 - k]), min(c[1 - k], d[1 - k])
                        )
                        assert shared <= 1.0, (one, other)


def test_arrows_say_what_a_term_uses():
    made = layout(config.examine(["gin/cribo.gin"])[0])
    box = {line.words[0][1]: line for line in made.boxes}

    def meets(point, side, part):
        return point[0] == side and part.y < point[1] < part.bottom

    def joined(source, term, path):
        start, end = box[source], box[f"term {term}"]
        return any(
            meets(arrow.points[0], start.right, start) and meets(arrow.points[-1], end.x, end) and arrow.stroke == path
            for arrow in made.arrows
        )

    assert joined("student", "image", "student") and joined("teacher", "image", "teacher")
    assert joined("clusterer of patches", "region", "student") and joined("clusterer of patches", "region", "teacher")
    assert joined("clusterer of patches", "across", "student") and joined("search objects", "across", "teacher")
    assert not joined("student", "region", "student") and not joined("search objects", "region", "teacher")


def test_strange_names_are_escaped():
    text = draw(config.examine(["gin/dino.gin"], ["backbones.Timm.name = '<a & \"b\">'"])[0])
    assert "&lt;a &amp; &quot;b&quot;&gt;" in text
    assert any(x.text == '<a & "b">' for x in ElementTree.fromstring(text).iter())


def test_values_of_other_peoples_parts_are_shown():
    bindings = ["image/Term.loss = @losses.Contrast()", "losses.Contrast.margin = 0.5"]
    said, _ = words(config.examine(["gin/dino.gin"], bindings)[0])
    assert "Contrast" in said.replace(" ", "") and "margin 0.5" in said and "symmetric yes" in said


@pytest.mark.parametrize(
    "binding, shown",
    [
        ("train.data = %gin.REQUIRED", "data open"),
        ("Method.backbone = %gin.REQUIRED", "student open"),
        ("Method.momentum = %gin.REQUIRED", "open"),
        ("Method.terms = %gin.REQUIRED", "term open"),
        ("image/Term.weight = %gin.REQUIRED", "\N{MULTIPLICATION SIGN} open"),
        ("image/Term.aligner = %gin.REQUIRED", "term image open"),
        ("augmenters.Crops.global_crops = %gin.REQUIRED", "global, open px"),
    ],
)
def test_an_open_value_is_shown_as_open(binding, shown, tmp_path):
    name = binding.partition(" ")[0]
    whole = config.examine(["gin/dino.gin"])[0].text
    file = tmp_path / "open.gin"
    file.write_text(
        "\n".join(line for line in whole.splitlines() if not line.startswith(name + " ")) + f"\n{binding}\n"
    )
    said, _ = words(config.examine([str(file)])[0])
    assert shown in said, said


def test_schedules_and_starts_are_shown():
    bindings = ["image/Term.weight = @w/schedules.Piecewise()", "w/schedules.Piecewise.values = {0: 0.0, 2: 1.0}"]
    said, _ = words(config.examine(["gin/dino.gin"], [*bindings, "image/Term.start_epoch = 3"])[0])
    assert "0: 0, 2: 1" in said and "piecewise" in said and "from epoch 3" in said and "0.98 → 0.999" in said
