# ruff: noqa: E501
"""What is said of a wrong configuration, to the letter: where, what, and what would be right."""

import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import sslkit.components  # noqa: F401
from sslkit import config, preflight, registry
from sslkit.clusterers import Clusterer
from sslkit.registry import Known


@dataclass(frozen=True)
class Case:
    """A file `mine.gin`, what is given beside it, and all that is said of the two."""

    name: str
    text: str
    said: str
    base: str | None = "gin/cribo.gin"  # included in line 1; the text starts in line 2, or 1 without it
    given: tuple[str, ...] = ()  # on the command line
    files: dict[str, bytes] = field(default_factory=dict)  # beside it
    builds: bool = False  # what is wrong shows when the parts are put together, not before
    twins: bool = False  # there are two components called Twin


class _Twin(Clusterer):
    def __init__(self, inner: Clusterer | None = None, n: int = 3): ...


def said(*files: str, given: tuple[str, ...] = (), builds: bool = True) -> str:
    """Everything that is wrong, as a person reads it."""
    settings, problems = config.examine(list(files), list(given))
    problems += preflight.contradictions(settings) if builds else []
    return "\n".join(dict.fromkeys(map(str, [*problems, *settings.left_open()])))


CASES = [
    Case(
        "component that does not exist",
        """
        Method.clusterer = @clusterers.KMean()
        """,
        """
        mine.gin:2: Method.clusterer names @clusterers.KMean, which does not exist; did you mean 'clusterers.KMeans'?; clusterers has: Grid, KMeans, Sinkhorn
        """,
    ),
    Case(
        "component bound that does not exist",
        """
        clusterers.Sinkhron.n_clusters = 4
        """,
        """
        mine.gin:2: clusterers.Sinkhron does not exist; did you mean 'clusterers.Sinkhorn'?; clusterers has: Grid, KMeans, Sinkhorn
        """,
    ),
    Case(
        "nothing near",
        """
        Method.clusterer = @clusterers.Zzz()
        """,
        """
        mine.gin:2: Method.clusterer names @clusterers.Zzz, which does not exist; clusterers has: Grid, KMeans, Sinkhorn
        """,
    ),
    Case(
        "role that does not exist",
        """
        clusterer.Sinkhorn.n_clusters = 4
        """,
        """
        mine.gin:2: clusterer.Sinkhorn does not exist; did you mean 'clusterers.Sinkhorn'?
        """,
    ),
    Case(
        "role in reference that does not exist",
        """
        Method.clusterer = @cluster.Grid()
        """,
        """
        mine.gin:2: Method.clusterer names @cluster.Grid, which does not exist; did you mean 'clusterers.Grid'?
        """,
    ),
    Case(
        "parameter that does not exist",
        """
        clusterers.Sinkhorn.n_cluster = 4
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.n_cluster: clusterers.Sinkhorn has no parameter 'n_cluster'; did you mean 'n_clusters'?; it has: n_clusters, n_rounds, n_balancing, sharpness, positional_weight, update_mass, hard, cost_scale
        """,
    ),
    Case(
        "parameter with nothing near",
        """
        clusterers.Sinkhorn.quux = 4
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.quux: clusterers.Sinkhorn has no parameter 'quux'; it has: n_clusters, n_rounds, n_balancing, sharpness, positional_weight, update_mass, hard, cost_scale
        """,
    ),
    Case(
        "parameter of component without any",
        """
        matchers.Nearest.k = 4
        """,
        """
        mine.gin:2: matchers.Nearest.k: matchers.Nearest has no parameter 'k'; it has: none
        """,
    ),
    Case(
        "parameter given by sslkit",
        """
        train.run_dir = 'x'
        """,
        """
        mine.gin:2: train.run_dir is given by sslkit itself; leave it out
        """,
    ),
    Case(
        "entry misspelt",
        """
        trian.n_steps = 4
        """,
        """
        mine.gin:2: trian does not exist; did you mean 'train'?
        """,
    ),
    Case(
        "ambiguous",
        """
        Method.clusterer = @Twin()
        """,
        """
        mine.gin:2: Method.clusterer names @Twin, which may be any of clusterers.Twin, matchers.Twin; write the whole name
        """,
        twins=True,
    ),
    Case(
        "ambiguous binding",
        """
        Twin.n = 3
        """,
        """
        mine.gin:2: Twin may be any of clusterers.Twin, matchers.Twin; write the whole name
        """,
        twins=True,
    ),
    Case(
        "str for int",
        """
        clusterers.Sinkhorn.n_rounds = 'four'
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.n_rounds = 'four' does not fit its type, int (at least 1)
        """,
    ),
    Case(
        "quoted int",
        """
        train.log_every = '4'
        """,
        """
        mine.gin:2: train.log_every = '4' does not fit its type, int (at least 1); write the number without quotes
        """,
    ),
    Case(
        "float for int",
        """
        train.log_every = 4.0
        """,
        """
        mine.gin:2: train.log_every = 4.0 does not fit its type, int (at least 1); write 4
        """,
    ),
    Case(
        "bool for int",
        """
        train.log_every = True
        """,
        """
        mine.gin:2: train.log_every = True does not fit its type, int (at least 1)
        """,
    ),
    Case(
        "str for float",
        """
        clusterers.Sinkhorn.sharpness = '20'
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.sharpness = '20' does not fit its type, float (above 0); write the number without quotes
        """,
    ),
    Case(
        "bool for float",
        """
        clusterers.Sinkhorn.sharpness = True
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.sharpness = True does not fit its type, float (above 0)
        """,
    ),
    Case(
        "None for float",
        """
        clusterers.Sinkhorn.sharpness = None
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.sharpness = None does not fit its type, float (above 0)
        """,
    ),
    Case(
        "str for bool",
        """
        clusterers.Sinkhorn.hard = 'yes'
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.hard = 'yes' does not fit its type, bool; write True or False
        """,
    ),
    Case(
        "int for bool",
        """
        clusterers.Sinkhorn.hard = 1
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.hard = 1 does not fit its type, bool; write True or False
        """,
    ),
    Case(
        "int for str",
        """
        image/Term.head = 1
        """,
        """
        mine.gin:2: image/Term.head = 1 does not fit its type, str | None
        """,
    ),
    Case(
        "unquoted str",
        """
        image/Term.head = image
        """,
        """
        mine.gin:2: not a gin binding: image/Term.head = image
          text stands in quotes; without them there are numbers, True, False and None
        """,
    ),
    Case(
        "word not allowed",
        """
        clusterers.Sinkhorn.cost_scale = 'images'
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.cost_scale = 'images' is not allowed: it must be 'image' or 'batch'
        """,
    ),
    Case(
        "number for word",
        """
        clusterers.Sinkhorn.cost_scale = 1
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.cost_scale = 1 does not fit its type, 'image' | 'batch'
        """,
    ),
    Case(
        "optional int",
        """
        train.evaluate_every = 'never'
        """,
        """
        mine.gin:2: train.evaluate_every = 'never' does not fit its type, int (at least 1) | None
        """,
    ),
    Case(
        "str for schedule",
        """
        Method.momentum = 'high'
        """,
        """
        mine.gin:2: Method.momentum = 'high' does not fit its type, float | Schedule (from 0 to 1) | None
        """,
    ),
    Case(
        "component for schedule",
        """
        Method.momentum = @matchers.Cycle()
        """,
        """
        mine.gin:2: Method.momentum = @matchers.Cycle() does not fit its type, float | Schedule (from 0 to 1) | None; it takes @schedules.Constant(), @schedules.Cosine(), @schedules.ScaledCosine(), @schedules.Scaled(), @schedules.Linear(), @schedules.Piecewise(), @schedules.Product(), @schedules.Rest()
        """,
    ),
    Case(
        "reference for int",
        """
        datasets.Scenes.n_images = @Method()
        """,
        """
        mine.gin:2: datasets.Scenes.n_images = @Method() does not fit its type, int (at least 1)
        """,
    ),
    Case(
        "schedule for plain float",
        """
        clusterers.Sinkhorn.sharpness = @momentum/schedules.Cosine()
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.sharpness = @momentum/schedules.Cosine() does not fit its type, float (above 0)
        """,
    ),
    Case(
        "scalar for sequence",
        """
        augmenters.Crop.scale = 0.5
        """,
        """
        mine.gin:2: augmenters.Crop.scale = 0.5 does not fit its type, Sequence[float (above 0 and at most 1)]; write it in square brackets
        """,
    ),
    Case(
        "str for sequence",
        """
        augmenters.Crop.scale = 'ab'
        """,
        """
        mine.gin:2: augmenters.Crop.scale = 'ab' does not fit its type, Sequence[float (above 0 and at most 1)]
        """,
    ),
    Case(
        "sequence with a wrong part",
        """
        augmenters.Crop.scale = (0.5, 'x')
        """,
        """
        mine.gin:2: augmenters.Crop.scale = (0.5, 'x') does not fit its type, Sequence[float (above 0 and at most 1)]
        """,
    ),
    Case(
        "str in sequence of numbers",
        """
        Method.heads = @heads.Prototypes()
        """,
        """
        mine.gin:2: Method.heads = @heads.Prototypes() does not fit its type, Sequence[Head]
        """,
    ),
    Case(
        "list for mapping",
        """
        Method.terms = [@image/Term()]
        """,
        """
        mine.gin:2: Method.terms = [@image/Term()] does not fit its type, Mapping[str, Term]
        """,
    ),
    Case(
        "wrong key",
        """
        heads.Prototypes.outputs = {1: 256, 'region': 256}
        """,
        """
        mine.gin:2: heads.Prototypes.outputs = {1: 256, 'region': 256} does not fit its type, Mapping[str, int (at least 2) | str]
        """,
    ),
    Case(
        "wrong value in mapping",
        """
        heads.Prototypes.outputs = {'image': 2.5, 'region': 256}
        """,
        """
        mine.gin:2: heads.Prototypes.outputs = {'image': 2.5, 'region': 256} does not fit its type, Mapping[str, int (at least 2) | str]
        """,
    ),
    Case(
        "wrong component in mapping",
        """
        Method.terms = {'image': @losses.Distillation()}
        """,
        """
        mine.gin:2: Method.terms = {'image': @losses.Distillation()} does not fit its type, Mapping[str, Term]
        """,
    ),
    Case(
        "tuple of wrong length",
        """
        datasets.Scenes.objects = (6, 9, 10)
        """,
        """
        mine.gin:2: datasets.Scenes.objects = (6, 9, 10) does not fit its type, tuple[int (from 1 to 100), int (from 1 to 100)]
        """,
    ),
    Case(
        "tuple of wrong kind",
        """
        datasets.Scenes.objects = (6, 9.5)
        """,
        """
        mine.gin:2: datasets.Scenes.objects = (6, 9.5) does not fit its type, tuple[int (from 1 to 100), int (from 1 to 100)]
        """,
    ),
    Case(
        "list for tuple",
        """
        datasets.Scenes.objects = [6, 9]
        """,
        """
        mine.gin:2: datasets.Scenes.objects = [6, 9] does not fit its type, tuple[int (from 1 to 100), int (from 1 to 100)]; write it in round brackets
        """,
    ),
    Case(
        "component that cannot be called for callable",
        """
        DATA = '.'
        evaluation.protocol = @val/datasets.Segmentation()
        """,
        """
        mine.gin:3: evaluation.protocol = @val/datasets.Segmentation() does not fit its type, Evaluation; it takes @evaluate.DenseRetrieval(), @evaluate.LinearProbe(), @evaluate.NearestNeighbours(), @evaluate.PatchRedundancy(), @evaluate.Robustness()
        gin/protocols/camvid_dense_nn.gin:6: datasets.Segmentation.root = %DATA: datasets.Segmentation refuses: Segmentation(root='HERE', split='train'): there is no folder HERE/images/train; it takes root/images/SPLIT
          gin/protocols/camvid_dense_nn.gin:7: train/datasets.Segmentation.split = 'train'
        gin/protocols/camvid_dense_nn.gin:6: datasets.Segmentation.root = %DATA: datasets.Segmentation refuses: Segmentation(root='HERE', split='val'): there is no folder HERE/images/val; it takes root/images/SPLIT
          gin/protocols/camvid_dense_nn.gin:8: val/datasets.Segmentation.split = 'val'
        """,
        base="gin/protocols/camvid_dense_nn.gin",
        builds=True,
    ),
    Case(
        "component of another role",
        """
        Method.clusterer = @losses.Distillation()
        """,
        """
        mine.gin:2: Method.clusterer = @losses.Distillation() does not fit its type, Clusterer | None; it takes @clusterers.Grid(), @clusterers.KMeans(), @clusterers.Sinkhorn()
        """,
    ),
    Case(
        "component of another role in list",
        """
        Method.heads = [@clusterers.Grid()]
        """,
        """
        mine.gin:2: Method.heads = [@clusterers.Grid()] does not fit its type, Sequence[Head]
        """,
    ),
    Case(
        "joint of another kind",
        """
        Method.searches = {'objects': @image/Term()}
        """,
        """
        mine.gin:2: Method.searches = {'objects': @image/Term()} does not fit its type, Mapping[str, Search] | None
        """,
    ),
    Case(
        "class without parentheses",
        """
        Method.clusterer = @clusterers.KMeans
        """,
        """
        mine.gin:2: Method.clusterer = @clusterers.KMeans names a class, not an object; write @clusterers.KMeans() with parentheses
        """,
    ),
    Case(
        "class without parentheses in list",
        """
        Method.heads = [@heads.Prototypes]
        """,
        """
        mine.gin:2: Method.heads = [@heads.Prototypes] names a class, not an object; write @heads.Prototypes() with parentheses
        """,
    ),
    Case(
        "entry as part",
        """
        Method.clusterer = @train()
        """,
        """
        mine.gin:2: Method.clusterer names @train, which is what sslkit runs, not a part; bind its parameters instead
        """,
    ),
    Case(
        "type through a macro",
        """
        B = 2.5
        train.batch_size = %B
        """,
        """
        mine.gin:3: train.batch_size = %B (mine.gin:2: B = 2.5) does not fit its type, int (at least 1)
        """,
    ),
    Case(
        "type in a macro in a list",
        """
        B = 'x'
        augmenters.Crop.scale = (%B, 1.0)
        """,
        """
        mine.gin:3: augmenters.Crop.scale = (%B, 1.0) (mine.gin:2: B = 'x') does not fit its type, Sequence[float (above 0 and at most 1)]
        """,
    ),
    Case(
        "below one",
        """
        memories.Queue.n_images = 0
        """,
        """
        mine.gin:2: memories.Queue.n_images = 0 is not allowed: it must be at least 1
        """,
    ),
    Case(
        "range of float",
        """
        augmenters.Crop.flip_p = 1.5
        """,
        """
        mine.gin:2: augmenters.Crop.flip_p = 1.5 is not allowed: it must be from 0 to 1
        """,
    ),
    Case(
        "range in container",
        """
        augmenters.Crop.scale = (0.5, 1.5)
        """,
        """
        mine.gin:2: augmenters.Crop.scale = (0.5, 1.5) is not allowed: it must be made of numbers above 0 and at most 1
        """,
    ),
    Case(
        "range in mapping",
        """
        heads.Prototypes.outputs = {'image': 1, 'region': 256}
        """,
        """
        mine.gin:2: heads.Prototypes.outputs = {'image': 1, 'region': 256} is not allowed: it must be made of numbers at least 2
        """,
    ),
    Case(
        "negative temperature",
        """
        losses.Distillation.student_temperature = -0.1
        """,
        """
        mine.gin:2: losses.Distillation.student_temperature = -0.1 is not allowed: it must be above 0
        """,
    ),
    Case(
        "infinite",
        """
        losses.Distillation.student_temperature = 1e999
        """,
        """
        mine.gin:2: losses.Distillation.student_temperature = inf is not allowed: it must be finite
        """,
    ),
    Case(
        "nan",
        """
        losses.Distillation.student_temperature = nan
        """,
        """
        mine.gin:2: not a gin binding: losses.Distillation.student_temperature = nan
          text stands in quotes; without them there are numbers, True, False and None
        """,
    ),
    Case(
        "momentum beyond one",
        """
        Method.momentum = 2.0
        """,
        """
        mine.gin:2: Method.momentum = 2.0 is not allowed: it must be from 0 to 1
        """,
    ),
    Case(
        "batch size 0",
        """
        train.batch_size = 0
        """,
        """
        mine.gin:2: train.batch_size = 0 is not allowed: it must be at least 1
        """,
    ),
    Case(
        "seed too large",
        """
        train.seed = 5000000000
        """,
        """
        mine.gin:2: train.seed = 5000000000 is not allowed: it must be from 0 to 4294967295
        """,
    ),
    Case(
        "range through macro",
        """
        B = 0
        memories.Queue.n_images = %B
        """,
        """
        mine.gin:3: memories.Queue.n_images = %B (mine.gin:2: B = 0) is not allowed: it must be at least 1
        """,
    ),
    Case(
        "never used",
        """
        clusterers.KMeans.n_clusters = 4
        """,
        """
        mine.gin:2: clusterers.KMeans.n_clusters is set but nothing uses it; no object is built from clusterers.KMeans
        """,
    ),
    Case(
        "misspelt scope",
        """
        acros/losses.Distillation.teacher_temperature = 0.07
        """,
        """
        mine.gin:2: acros/losses.Distillation.teacher_temperature is set but nothing uses it; did you mean 'across'?
        """,
    ),
    Case(
        "scope with nothing near",
        """
        qqqqq/losses.Distillation.teacher_temperature = 0.07
        """,
        """
        mine.gin:2: qqqqq/losses.Distillation.teacher_temperature is set but nothing uses it; no losses.Distillation is built in the scope 'qqqqq', it is built in 'across', 'image', 'region'
        """,
    ),
    Case(
        "scope that is used but not there",
        """
        image/clusterers.Sinkhorn.n_clusters = 4
        """,
        """
        mine.gin:2: image/clusterers.Sinkhorn.n_clusters is set but nothing uses it; no clusterers.Sinkhorn is built in the scope 'image', it is built outside of every scope
        """,
    ),
    Case(
        "unused macro",
        """
        BATCH = 4
        """,
        """
        mine.gin:2: BATCH is set but nothing uses it; nothing in use asks for %BATCH
        """,
    ),
    Case(
        "unused macro near",
        """
        CRIBO_TERM = {}
        """,
        """
        mine.gin:2: CRIBO_TERM is set but nothing uses it; did you mean 'CRIBO_TERMS'?
        """,
    ),
    Case(
        "two entries misspelt scope on entry",
        """
        mine/train.batch_size = 4
        """,
        """
        mine.gin:2: mine/train.batch_size is set but nothing uses it; train runs outside of every scope, write `train.batch_size = ...`
        """,
    ),
    Case(
        "twice in one file",
        """
        train.batch_size = 3
        train.batch_size = 4
        """,
        """
        mine.gin:3: train.batch_size is set twice in this file, first in line 2; keep one of the two
        """,
    ),
    Case(
        "macro twice in one file",
        """
        B = 3
        B = 4
        train.batch_size = %B
        """,
        """
        mine.gin:3: B is set twice in this file, first in line 2; keep one of the two
        """,
    ),
    Case(
        "twice by partial name",
        """
        clusterers.Sinkhorn.n_clusters = 3
        Sinkhorn.n_clusters = 4
        """,
        """
        mine.gin:3: Sinkhorn.n_clusters is set twice in this file, first in line 2; keep one of the two
        """,
    ),
    Case(
        "twice on the command line",
        "",
        """
        --set: train.batch_size is set twice, also by --set; give it once
        """,
        given=("train.batch_size = 3", "train.batch_size = 4"),
    ),
    Case(
        "three times in one file",
        """
        train.batch_size = 3
        train.batch_size = 4
        train.batch_size = 5
        """,
        """
        mine.gin:3: train.batch_size is set twice in this file, first in line 2; keep one of the two
        mine.gin:4: train.batch_size is set twice in this file, first in line 2; keep one of the two
        """,
    ),
    Case(
        "key twice in a dict",
        """
        heads.Prototypes.outputs = {'image': 256, 'region': 256, 'image': 8}
        """,
        """
        mine.gin:2: not a gin binding: heads.Prototypes.outputs = {'image': 256, 'region': 256, 'image': 8}
          the key 'image' stands twice
        """,
    ),
    Case(
        "undefined macro",
        """
        train.batch_size = %B
        """,
        """
        mine.gin:2: train.batch_size uses %B, which is not defined; add `B = ...`
        """,
    ),
    Case(
        "undefined macro near",
        """
        Method.terms = %CRIBO_TERM
        """,
        """
        mine.gin:2: Method.terms uses %CRIBO_TERM, which is not defined; did you mean 'CRIBO_TERMS'?
        """,
    ),
    Case(
        "undefined DATA",
        """
        train.data = @datasets.ImageFolder()
        datasets.ImageFolder.root = %DATA
        """,
        """
        mine.gin:3: datasets.ImageFolder.root uses %DATA, which is not defined; give --data DIR
        """,
    ),
    Case(
        "macro by itself",
        """
        A = %A
        train.keep = %A
        """,
        """
        mine.gin:2: A = %A: %A is made of itself
        """,
    ),
    Case(
        "macros by each other",
        """
        A = %B
        B = %A
        train.batch_size = %A
        """,
        """
        mine.gin:3: B = %A: %A is made of itself, by way of %B
        """,
    ),
    Case(
        "macro inside its own container",
        """
        A = [%A]
        augmenters.Crop.scale = %A
        """,
        """
        mine.gin:2: A = [%A]: %A is made of itself
        """,
    ),
    Case(
        "component inside itself",
        """
        objects/Search.memory = @memories.Queue()
        memories.Queue.n_images = 5
        Method.clusterer = @clusterers.Twin()
        clusterers.Twin.inner = @clusterers.Twin()
        """,
        """
        mine.gin:5: clusterers.Twin.inner = @clusterers.Twin(): @clusterers.Twin() would be built inside itself, without end
        """,
        twins=True,
    ),
    Case(
        "component inside itself via a macro",
        """
        Method.clusterer = @clusterers.Twin()
        clusterers.Twin.inner = %M
        M = @clusterers.Twin()
        """,
        """
        mine.gin:3: clusterers.Twin.inner = %M: %M is made of itself, by way of @M/clusterers.Twin()
        """,
        twins=True,
    ),
    Case(
        "missing include",
        """
        # mine
        include 'gin/base/crybo.gin'
        """,
        """
        mine.gin:2: there is no file 'gin/base/crybo.gin'; did you mean 'gin/base/cribo.gin'?
          looked at HERE/gin/base/crybo.gin, SHIPPED/gin/base/crybo.gin
        """,
        base=None,
    ),
    Case(
        "missing include nothing near",
        """
        include 'quux'
        """,
        """
        mine.gin:2: there is no file 'quux'
          looked at HERE/quux, SHIPPED/quux
        """,
    ),
    Case(
        "cyclic include",
        """
        include 'mine.gin'
        """,
        """
        mine.gin:1: 'mine.gin' includes itself: mine.gin -> mine.gin
        """,
        base=None,
    ),
    Case(
        "indirect cycle",
        """
        include 'b.gin'
        """,
        """
        b.gin:2: 'mine.gin' includes itself: mine.gin -> b.gin -> mine.gin
        """,
        files={"b.gin": b"# b\ninclude 'mine.gin'\n"},
    ),
    Case(
        "binary include",
        """
        include 'b.gin'
        """,
        """
        mine.gin:2: b.gin cannot be read as text: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte
        """,
        files={"b.gin": b"\xff\xfe\x00"},
    ),
    Case(
        "include of a folder",
        """
        include 'gin'
        """,
        """
        mine.gin:2: there is no file 'gin'
          looked at HERE/gin, SHIPPED/gin
        """,
    ),
    Case(
        "second include undoes",
        """
        heads.Prototypes.hidden = 64
        include 'gin/base/small_prototypes.gin'
        """,
        """
        mine.gin:3: gin/base/small_prototypes.gin is included a second time and would undo heads.Prototypes.hidden = 64 of mine.gin:2; include it before whatever changes it
        """,
    ),
    Case(
        "syntax error in an include",
        """
        include 'b.gin'
        """,
        """
        b.gin:1: not a gin binding: train.batch_size =
          there is no value: a number, a 'text', a list, @name() or %NAME
        """,
        files={"b.gin": b"train.batch_size =\n"},
    ),
    Case(
        "missing file on command line",
        "",
        """
        --set: an include belongs into a file; give that file with --gin
        """,
        given=("include 'gin/dino.gin'",),
    ),
    Case(
        "unclosed bracket",
        """
        clusterers.Sinkhorn.n_clusters = [1, 2
        """,
        """
        mine.gin:2: not a gin binding: clusterers.Sinkhorn.n_clusters = [1, 2
          a bracket is opened and not closed
        """,
    ),
    Case(
        "unclosed bracket with more after",
        """
        augmenters.Crop.scale = (0.2, 0.8
        train.batch_sise = 3
        """,
        """
        mine.gin:2: not a gin binding: augmenters.Crop.scale = (0.2, 0.8
          a bracket is opened and not closed
        mine.gin:3: train.batch_sise: train has no parameter 'batch_sise'; did you mean 'batch_size'?; it has: method, data, augmenter, optimizer, batch_size, n_epochs, n_steps, accumulate, seed, device, precision, n_workers, log_every, save_every, keep, keep_every, keep_best, evaluations, evaluate_every, pictures, shard, compile, patience_s
        """,
    ),
    Case(
        "missing value",
        """
        train.batch_size =
        train.seed = 1
        """,
        """
        mine.gin:2: not a gin binding: train.batch_size =
          there is no value: a number, a 'text', a list, @name() or %NAME
        """,
    ),
    Case(
        "missing value at the end",
        """
        train.batch_size =
        """,
        """
        mine.gin:2: not a gin binding: train.batch_size =
          there is no value: a number, a 'text', a list, @name() or %NAME
        """,
    ),
    Case(
        "stray text",
        """
        train.batch_size = 3 images
        """,
        """
        mine.gin:2: not a gin binding: train.batch_size = 3 images
          the line goes on behind its value
        """,
    ),
    Case(
        "stray line",
        """
        matchers.Nearest
        """,
        """
        mine.gin:2: not a gin binding: matchers.Nearest
          write `name.parameter = value`
        """,
    ),
    Case(
        "no parameter",
        """
        Method = 3
        """,
        """
        mine.gin:2: Method is set but nothing uses it; Method is bound by its parameters: `Method = ...` defines the macro %Method
        """,
    ),
    Case(
        "unterminated string",
        """
        image/Term.head = 'image
        """,
        """
        mine.gin:2: not a gin binding: image/Term.head = 'image
          there is no value: a number, a 'text', a list, @name() or %NAME
        """,
    ),
    Case(
        "arithmetic",
        """
        train.batch_size = 2 * 16
        """,
        """
        mine.gin:2: not a gin binding: train.batch_size = 2 * 16
          the line goes on behind its value
        """,
    ),
    Case(
        "call with arguments",
        """
        Method.clusterer = @clusterers.Grid(2, 2)
        """,
        """
        mine.gin:2: not a gin binding: Method.clusterer = @clusterers.Grid(2, 2)
          write @name() with nothing in the parentheses, and bind its parameters
        """,
    ),
    Case(
        "colon block wrong",
        """
        train:
        batch_size = 3
        """,
        """
        mine.gin:2: not a gin binding: train:
          the parameters of a block are indented
        mine.gin:3: batch_size is set but nothing uses it; nothing in use asks for %batch_size
        """,
    ),
    Case(
        "import",
        """
        import os
        """,
        """
        mine.gin:2: a gin file imports nothing here; plugins are entry points
        """,
    ),
    Case(
        "space in a name",
        """
        train. batch_size = 3
        """,
        """
        mine.gin:2: not a gin binding: train. batch_size = 3
          names are joined by . and /, without spaces
        """,
    ),
    Case(
        "empty scope",
        """
        /train.batch_size = 3
        """,
        """
        mine.gin:2: not a gin binding: /train.batch_size = 3
          a name is missing
        """,
    ),
    Case(
        "lower-case true",
        """
        clusterers.Sinkhorn.hard = true
        """,
        """
        mine.gin:2: not a gin binding: clusterers.Sinkhorn.hard = true
          text stands in quotes; without them there are numbers, True, False and None
        """,
    ),
    Case(
        "command line syntax",
        "",
        """
        --set: not a gin binding: train.batch_size = [3
          a bracket is opened and not closed
        """,
        given=("train.batch_size = [3",),
    ),
    Case(
        "command line option syntax",
        "",
        """
        --batch-size x: not a gin binding: train.batch_size = x  # --batch-size x
          text stands in quotes; without them there are numbers, True, False and None
        """,
        given=("train.batch_size = x  # --batch-size x",),
    ),
    Case(
        "command line unknown",
        "",
        """
        --set: train.batch_sise: train has no parameter 'batch_sise'; did you mean 'batch_size'?; it has: method, data, augmenter, optimizer, batch_size, n_epochs, n_steps, accumulate, seed, device, precision, n_workers, log_every, save_every, keep, keep_every, keep_best, evaluations, evaluate_every, pictures, shard, compile, patience_s
        """,
        given=("train.batch_sise = 3",),
    ),
    Case(
        "empty command line",
        "",
        """
        --set: '' sets nothing; write `name.parameter = value`
        """,
        given=("",),
    ),
    Case(
        "required left open",
        "",
        """
        gin/recipes/cribo_coco_vits16.gin:16: train.data is not set; give --data DIR
        """,
        base="gin/recipes/cribo_coco_vits16.gin",
    ),
    Case(
        "data of a protocol left open",
        "",
        """
        gin/protocols/camvid_dense_nn.gin:6: train/datasets.Segmentation.root is not set; give --data DIR
        gin/protocols/camvid_dense_nn.gin:6: val/datasets.Segmentation.root is not set; give --data DIR
        """,
        base="gin/protocols/camvid_dense_nn.gin",
    ),
    Case(
        "not set at all",
        """
        Method.clusterer = @clusterers.KMeans()
        """,
        """
        mine.gin:2: clusterers.KMeans.n_clusters is not set; add `clusterers.KMeans.n_clusters = ...`
        """,
    ),
    Case(
        "missing folder",
        """
        train.data = @datasets.ImageFolder()
        datasets.ImageFolder.root = '/nowhere/at/all'
        """,
        """
        mine.gin:3: datasets.ImageFolder.root = '/nowhere/at/all': there is no such folder; looked at /nowhere/at/all
        """,
        builds=True,
    ),
    Case(
        "missing folder by macro",
        """
        train.data = @datasets.ImageFolder()
        datasets.ImageFolder.root = %DATA
        """,
        """
        mine.gin:3: datasets.ImageFolder.root = %DATA: there is no such folder; looked at /nowhere/at/all
        """,
        given=("DATA = '/nowhere/at/all'  # --data /nowhere/at/all",),
        builds=True,
    ),
    Case(
        "empty folder",
        """
        train.data = @datasets.ImageFolder()
        datasets.ImageFolder.root = '.'
        """,
        """
        mine.gin:3: datasets.ImageFolder.root = '.': datasets.ImageFolder refuses: ImageFolder.root='HERE': no image in HERE or below it; looked for files ending in .bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp
        """,
        builds=True,
    ),
    Case(
        "binds nothing",
        """
        # nothing
        """,
        """
        mine.gin binds nothing of `train` or `evaluation`, so nothing runs
        """,
        base=None,
    ),
    Case(
        "binds no entry",
        """
        clusterers.Grid.rows = 2
        """,
        """
        mine.gin binds nothing of `train` or `evaluation`, so nothing runs
        """,
        base=None,
    ),
    Case(
        "more clusters than tokens",
        """
        clusterers.Sinkhorn.n_clusters = 4096
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.n_clusters = 4096: a step does not work on views of 64 px, 64 px: n_clusters=4096, but an image has only 128 tokens over its views
        """,
        builds=True,
    ),
    Case(
        "grid larger than the tokens",
        """
        Method.clusterer = @clusterers.Grid()
        clusterers.Grid.rows = 100
        clusterers.Grid.columns = 100
        """,
        """
        mine.gin:4: clusterers.Grid.columns = 100: a step does not work on views of 64 px, 64 px: n_clusters=10000, but an image has only 128 tokens over its views
          mine.gin:3: clusterers.Grid.rows = 100
        """,
        builds=True,
    ),
    Case(
        "crop not divisible",
        """
        backbones.Timm.name = 'vit_tiny_patch16_224'
        backbones.Timm.options = {}
        backbones.Timm.padding = 'zeros'
        augmenters.Crop.size = 60
        """,
        """
        mine.gin:5: augmenters.Crop.size = 60: a step does not work on views of 60 px, 60 px: Input height (60) should be divisible by patch size (16).
          mine.gin:4: backbones.Timm.padding = 'zeros'
          mine.gin:3: backbones.Timm.options = {}
          mine.gin:2: backbones.Timm.name = 'vit_tiny_patch16_224'
        """,
        builds=True,
    ),
    Case(
        "head name",
        """
        image/Term.head = 'imag'
        """,
        """
        mine.gin:2: image/Term.head = 'imag': image/Term.head names 'imag', but no head has such an output; did you mean 'image'? there is: image, region
          gin/cribo.gin:8: heads.Prototypes.outputs = {'image': 256, 'region': 256}
        """,
        builds=True,
    ),
    Case(
        "target head",
        """
        image/Term.target_head = 'imag'
        """,
        """
        mine.gin:2: image/Term.target_head = 'imag': image/Term.target_head names 'imag', but no head has such an output; did you mean 'image'? there is: image, region
          gin/cribo.gin:8: heads.Prototypes.outputs = {'image': 256, 'region': 256}
        """,
        builds=True,
    ),
    Case(
        "no term counts",
        """
        Method.terms = {'image': @image/Term()}
        Method.searches = None
        Method.clusterer = None
        heads.Prototypes.outputs = {'image': 256}
        image/Term.weight = @w/schedules.Linear()
        w/schedules.Linear.start = 0.0
        w/schedules.Linear.end = 1.0
        """,
        """
        mine.gin:6: image/Term.weight = @w/schedules.Linear(): no term counts at step 0 of 400, where all (image) have weight 0 or have not started: let one of them count from the start to the end
        """,
        builds=True,
    ),
    Case(
        "search name",
        """
        aligners.RegionAcrossImages.search = 'things'
        """,
        """
        mine.gin:2: aligners.RegionAcrossImages.search = 'things': the method has no search 'things'; there is: objects
        """,
        builds=True,
    ),
    Case(
        "schedule leaves range",
        """
        momentum/schedules.Cosine.end = 1.5
        """,
        """
        mine.gin:2: momentum/schedules.Cosine.end = 1.5: Method.momentum is 1.00138 at step 52, but it must be from 0 to 1
          gin/base/small.gin:8: momentum/schedules.Cosine.start = 0.98
          gin/base/small.gin:7: Method.momentum = @momentum/schedules.Cosine()
        """,
        builds=True,
    ),
    Case(
        "schedule leaves range at start",
        """
        losses.Distillation.teacher_temperature = @t/schedules.Linear()
        t/schedules.Linear.start = 0.0
        t/schedules.Linear.end = 0.07
        """,
        """
        mine.gin:4: t/schedules.Linear.end = 0.07: image/losses.Distillation.teacher_temperature is 0 at step 0, but it must be above 0
          mine.gin:3: t/schedules.Linear.start = 0.0
          mine.gin:2: losses.Distillation.teacher_temperature = @t/schedules.Linear()
        """,
        builds=True,
    ),
    Case(
        "term never starts",
        """
        across/Term.start_step = 4000
        """,
        """
        mine.gin:2: across/Term.start_step = 4000: term 'across' would start with step 4000 (start_epoch=0, start_step=4000, start_fraction=0.125, 93 steps an epoch), but the run has 400 steps: take more, or let it start earlier
          gin/cribo.gin:12: across/Term.start_fraction = 0.125
          gin/cribo.gin:11: across/Term.start_epoch = 0
        """,
        builds=True,
    ),
    Case(
        "term never starts by epoch",
        """
        across/Term.start_epoch = 40
        """,
        """
        mine.gin:2: across/Term.start_epoch = 40: term 'across' would start with step 3720 (start_epoch=40, start_step=0, start_fraction=0.125, 93 steps an epoch), but the run has 400 steps: take more, or let it start earlier
          gin/cribo.gin:12: across/Term.start_fraction = 0.125
        """,
        builds=True,
    ),
    Case(
        "outputs frozen throughout",
        """
        Method.freeze_outputs_epochs = 40
        """,
        """
        mine.gin:2: Method.freeze_outputs_epochs = 40: freeze_outputs_epochs=40 of 93 steps, but the run has 400: take more, or freeze fewer epochs
        """,
        builds=True,
    ),
    Case(
        "too few images",
        """
        scenes/datasets.Scenes.n_images = 16
        """,
        """
        mine.gin:2: scenes/datasets.Scenes.n_images = 16: the data set has 16 images, but one step takes 32 (batch_size x ranks x accumulate)
          gin/base/small.gin:31: train.batch_size = 32
        """,
        builds=True,
    ),
    Case(
        "epochs and steps",
        """
        train.n_epochs = 3
        """,
        """
        mine.gin:2: train.n_epochs = 3: n_epochs=3, n_steps=400: give the length of the run in one of the two
          gin/base/small.gin:32: train.n_steps = 400
        """,
        builds=True,
    ),
    Case(
        "two heads one output",
        """
        Method.heads = [@heads.Prototypes(), @b/heads.Prototypes()]
        """,
        """
        mine.gin:2: Method.heads = [@heads.Prototypes(), @b/heads.Prototypes()]: Method refuses: two heads of the method have an output named 'image': rename one
        """,
        builds=True,
    ),
    Case(
        "too many neighbours",
        """
        evaluate.DenseRetrieval.n_neighbours = 10000000
        """,
        """
        mine.gin:2: evaluate.DenseRetrieval.n_neighbours = 10000000: evaluation 'dense': n_neighbours=10000000, but the memory holds 28800 patches at most
        """,
        builds=True,
    ),
    Case(
        "partner view with joint clustering",
        """
        two/augmenters.Crop.source = 1
        """,
        """
        mine.gin:2: two/augmenters.Crop.source = 1: a view has source=1, the partner of an image, but the method draws none (Method.partners)
        """,
        builds=True,
    ),
    Case(
        "two sizes with joint clustering",
        """
        two/augmenters.Crop.size = 96
        """,
        """
        mine.gin:2: two/augmenters.Crop.size = 96: the global views show the image at 64 px and 96 px, but they are clustered together and must have one size
          gin/base/small.gin:12: augmenters.Crop.size = 64
          gin/base/two_views.gin:3: augmenters.Crops.global_crops = [@one/augmenters.Crop(), @two/augmenters.Crop()]
        """,
        builds=True,
    ),
    Case(
        "centering without entry",
        """
        Method.centering = {'image': @centerings.Mean()}
        """,
        """
        mine.gin:2: Method.centering = {'image': @centerings.Mean()}: Method refuses: centering has no entry for the output layer 'region'; it has: image
        """,
        builds=True,
    ),
    Case(
        "centering one too many",
        """
        Method.centering = {'image': @centerings.Mean(), 'region': @centerings.Mean(), 'else': @centerings.Mean()}
        """,
        """
        mine.gin:2: Method.centering = {'image': @centerings.Mean(), 'region': @centerings.Mean(), 'else': @centerings.Mean()}: no head has an output 'else'; there is: image, region
        """,
        builds=True,
    ),
    Case(
        "backbone options",
        """
        backbones.Timm.options = {'output_strid': 8}
        """,
        """
        mine.gin:2: backbones.Timm.options = {'output_strid': 8}: backbones.Timm refuses: timm could not make 'resnet18' with options={'output_strid': 8}: TypeError: ResNet.__init__() got an unexpected keyword argument 'output_strid'
        """,
        builds=True,
    ),
    Case(
        "optimizer options",
        """
        Optimizer.options = {'beta': 3}
        """,
        """
        mine.gin:2: Optimizer.options = {'beta': 3}: Optimizer.name='adamw' does not take options={'beta': 3}: AdamW.__init__() got an unexpected keyword argument 'beta'
          gin/base/small.gin:23: Optimizer.name = 'adamw'
        """,
        builds=True,
    ),
    Case(
        "no terms",
        """
        Method.terms = {}
        """,
        """
        mine.gin:2: Method.terms = {}: Method refuses: terms={}, but a method needs at least one term
        """,
        builds=True,
    ),
    Case(
        "search without clusterer",
        """
        Method.clusterer = None
        """,
        """
        mine.gin:2: Method.clusterer = None: Method refuses: a search at level='region' needs regions, but the method has no clusterer (Method.clusterer)
        """,
        builds=True,
    ),
    Case(
        "region term without clusterer",
        """
        include 'gin/base/scenes.gin'
        include 'gin/base/small.gin'
        heads.Prototypes.outputs = {'image': 8}
        image/Term.aligner = @aligners.RegionAcrossViews()
        """,
        """
        mine.gin:5: image/Term.aligner = @aligners.RegionAcrossViews(): a step does not work on views of 64 px, 64 px: term 'image': RegionAcrossViews needs regions, but the method has no clusterer (Method.clusterer)
        """,
        base="gin/base/dino.gin",
        builds=True,
    ),
    Case(
        "one view only",
        """
        augmenters.Crops.global_crops = [@one/augmenters.Crop()]
        """,
        """
        mine.gin:2: augmenters.Crops.global_crops = [@one/augmenters.Crop()]: 1 global views of the image, but the memory of the search 'objects' has n_planes=2
        """,
        builds=True,
    ),
    Case(
        "three global views",
        """
        augmenters.Crops.global_crops = [@one/augmenters.Crop(), @two/augmenters.Crop(), @two/augmenters.Crop()]
        """,
        """
        mine.gin:2: augmenters.Crops.global_crops = [@one/augmenters.Crop(), @two/augmenters.Crop(), @two/augmenters.Crop()]: 3 global views of the image, but the memory of the search 'objects' has n_planes=2
        """,
        builds=True,
    ),
    Case(
        "warmup twice",
        """
        lr/schedules.Cosine.warmup_epochs = 1
        """,
        """
        mine.gin:2: lr/schedules.Cosine.warmup_epochs = 1: schedules.Cosine refuses: warmup_epochs=1, warmup_fraction=0.125: give one of them
          gin/base/small.gin:27: lr/schedules.Cosine.warmup_fraction = 0.125
        """,
        builds=True,
    ),
    Case(
        "memory size",
        """
        evaluate.DenseRetrieval.memory_size = 20
        """,
        """
        mine.gin:2: evaluate.DenseRetrieval.memory_size = 20: evaluate.DenseRetrieval refuses: memory_size=20, but it must hold a patch of each of 200 images
        """,
        builds=True,
    ),
    Case(
        "ignore index",
        """
        evaluate.DenseRetrieval.ignore_index = 2
        """,
        """
        mine.gin:2: evaluate.DenseRetrieval.ignore_index = 2: evaluate.DenseRetrieval refuses: ignore_index=2, but it is one of the n_classes=7 that are scored
          gin/base/scenes.gin:17: evaluate.DenseRetrieval.n_classes = 7
        """,
        builds=True,
    ),
    Case(
        "static shapes with batch norm",
        """
        Method.static_shapes = True
        """,
        """
        mine.gin:2: Method.static_shapes = True: Method refuses: static_shapes=True with BatchNorm in a head: empty regions would enter its statistics
        """,
        builds=True,
    ),
    Case(
        "device",
        """
        train.device = 'gpu'
        """,
        """
        mine.gin:2: train.device = 'gpu': torch knows no device of that name; write 'auto', 'cpu', 'cuda', 'cuda:1' or the like
        """,
        builds=True,
    ),
    Case(
        "merge same key",
        """
        Method.terms = @merge()
        merge.parts = [%CRIBO_TERMS, {'image': @image/Term()}]
        """,
        """
        mine.gin:3: merge.parts = [%CRIBO_TERMS, {'image': @image/Term()}]: two parts have the key 'image'
        """,
    ),
    Case(
        "merge of a list",
        """
        Method.terms = @merge()
        merge.parts = %CRIBO_TERMS
        """,
        """
        mine.gin:3: merge.parts = %CRIBO_TERMS (gin/base/cribo.gin:10: CRIBO_TERMS = {'image': @image/Term(), 'region': @region/Term(), 'across': @across/Term()}) does not fit its type, Sequence[Mapping[str, Any]]
        """,
    ),
    Case(
        "merge gives the wrong type",
        """
        Method.terms = @merge()
        merge.parts = [{'image': 3}]
        """,
        """
        mine.gin:2: Method.terms = @merge(): {'image': 3} does not fit its type, Mapping[str, Term]
        """,
    ),
    Case(
        "merge without parts",
        """
        Method.terms = @merge()
        """,
        """
        mine.gin:2: Method.terms = @merge(): @merge() needs a value for 'parts'; add `merge.parts = ...`
        """,
    ),
    Case(
        "product of strings",
        """
        train.batch_size = @product()
        product.factors = ['a', 2]
        """,
        """
        mine.gin:3: product.factors = ['a', 2] does not fit its type, Sequence[float]
        """,
    ),
    Case(
        "product not whole",
        """
        train.batch_size = @product()
        product.factors = [1.5, 3]
        """,
        """
        mine.gin:2: train.batch_size = @product(): 4.5 does not fit its type, int (at least 1)
        """,
    ),
    Case(
        "concatenate of a dict",
        """
        Method.heads = @concatenate()
        concatenate.parts = {'a': [@heads.Prototypes()]}
        """,
        """
        mine.gin:3: concatenate.parts = {'a': [@heads.Prototypes()]} does not fit its type, Sequence[Sequence[Any]]
        """,
    ),
    Case(
        "concatenate of items",
        """
        Method.heads = @concatenate()
        concatenate.parts = [@heads.Prototypes()]
        """,
        """
        mine.gin:3: concatenate.parts = [@heads.Prototypes()] does not fit its type, Sequence[Sequence[Any]]; write it in square brackets
        """,
    ),
    Case(
        "singleton without constructor",
        """
        Method.heads = [@trunk/singleton()]
        """,
        """
        mine.gin:2: Method.heads = [@trunk/singleton()]: @trunk/singleton() needs a constructor; add `trunk/singleton.constructor = @role.Name` (without parentheses)
        """,
    ),
    Case(
        "singleton of an object",
        """
        Method.heads = [@trunk/singleton()]
        trunk/singleton.constructor = @heads.Prototypes()
        """,
        """
        mine.gin:2: Method.heads = [@trunk/singleton()]: @trunk/singleton() needs a constructor, not @trunk/heads.Prototypes(); add `trunk/singleton.constructor = @role.Name` (without parentheses)
        """,
    ),
    Case(
        "singleton of a number",
        """
        Method.heads = [@trunk/singleton()]
        trunk/singleton.constructor = 3
        """,
        """
        mine.gin:2: Method.heads = [@trunk/singleton()]: @trunk/singleton() needs a constructor, not 3; add `trunk/singleton.constructor = @role.Name` (without parentheses)
        """,
    ),
    Case(
        "singleton of the wrong thing",
        """
        Method.heads = [@trunk/singleton()]
        trunk/singleton.constructor = @losses.Distillation
        """,
        """
        mine.gin:2: Method.heads = [@trunk/singleton()]: [@trunk/losses.Distillation()] does not fit its type, Sequence[Head]
        """,
    ),
    Case(
        "singleton inside itself",
        """
        Method.heads = [@trunk/singleton()]
        trunk/singleton.constructor = @trunk/singleton
        """,
        """
        mine.gin:3: trunk/singleton.constructor = @trunk/singleton: @trunk/singleton would be built inside itself, without end
        """,
    ),
    Case(
        "helper uncalled",
        """
        Method.terms = @merge
        """,
        """
        mine.gin:2: Method.terms = @merge names a class, not an object; write @merge() with parentheses
        """,
    ),
    Case(
        "six mistakes",
        """
        clusterers.Sinkhorn.n_cluster = 4
        train.batch_size = 'x'
        Method.clusterer = @clusterers.KMean()
        acros/Term.weight = 3
        train.keep = %K
        image/Term.head = 'imag'
        """,
        """
        mine.gin:2: clusterers.Sinkhorn.n_cluster: clusterers.Sinkhorn has no parameter 'n_cluster'; did you mean 'n_clusters'?; it has: n_clusters, n_rounds, n_balancing, sharpness, positional_weight, update_mass, hard, cost_scale
        mine.gin:3: train.batch_size = 'x' does not fit its type, int (at least 1)
        mine.gin:4: Method.clusterer names @clusterers.KMean, which does not exist; did you mean 'clusterers.KMeans'?; clusterers has: Grid, KMeans, Sinkhorn
        mine.gin:6: train.keep uses %K, which is not defined; add `K = ...`
        mine.gin:5: acros/Term.weight is set but nothing uses it; did you mean 'across'?
        mine.gin:7: image/Term.head = 'imag': image/Term.head names 'imag', but no head has such an output; did you mean 'image'? there is: image, region
          gin/cribo.gin:8: heads.Prototypes.outputs = {'image': 256, 'region': 256}
        """,
        builds=True,
    ),
    Case(
        "number for callable",
        """
        train.data = @datasets.Scenes()
        evaluation.protocol = 3
        """,
        """
        mine.gin:3: evaluation.protocol = 3 does not fit its type, Evaluation
        """,
        base="gin/recipes/cribo_coco_vits16.gin",
    ),
    Case(
        "tabs and spaces in one block",
        "train:\n  batch_size = 3\n\tseed = 1",
        """
        mine.gin:4: not a gin binding: seed = 1
          Invalid identifier name
        """,
    ),
    Case(
        "range in a tuple",
        """
        datasets.Scenes.scale = (0.5, 2.0)
        """,
        """
        mine.gin:2: datasets.Scenes.scale = (0.5, 2.0) is not allowed: it must be made of numbers from 0.05 to 1
        """,
    ),
    Case(
        "range of a macro in a list",
        """
        B = 7.0
        augmenters.Crop.blur_px = (0.1, 1.0)
        augmenters.Crop.scale = (0.1, %B)
        """,
        """
        mine.gin:4: augmenters.Crop.scale = (0.1, %B) (mine.gin:2: B = 7.0) is not allowed: it must be made of numbers above 0 and at most 1
        """,
    ),
    Case(
        "macros in a ring of three",
        """
        A = %B
        B = [%C]
        C = %A
        HEAD = %C
        heads.Prototypes.outputs = %HEAD
        """,
        """
        mine.gin:3: B = [%C]: %C is made of itself, by way of %A and %B
        """,
    ),
    Case(
        "crop larger than it is allowed",
        """
        one/augmenters.Crop.scale = (0.8, 0.2)
        """,
        """
        mine.gin:2: one/augmenters.Crop.scale = (0.8, 0.2): augmenters.Crop refuses: scale=(0.8, 0.2), but it must be a pair (lowest, highest)
        """,
        builds=True,
    ),
    Case(
        "numbers no float can hold",
        """
        train.save_every = 10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000
        """,
        """
        mine.gin:2: train.save_every = 10000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000 is not allowed: it must be finite
        """,
    ),
    Case(
        "base only",
        "",
        """
        train.data is not set; give --data DIR
        train.optimizer is not set; add `train.optimizer = ...`
        train.batch_size is not set; add `train.batch_size = ...`
        gin/base/cribo.gin:5: backbones.Timm.name is not set; add `backbones.Timm.name = ...`
        gin/base/cribo.gin:6: heads.Prototypes.outputs is not set; add `heads.Prototypes.outputs = ...`
        gin/base/cribo.gin:7: clusterers.Sinkhorn.n_clusters is not set; add `clusterers.Sinkhorn.n_clusters = ...`
        gin/base/cribo.gin:14: objects/memories.Queue.n_images is not set; add `objects/memories.Queue.n_images = ...`
        """,
        base="gin/base/cribo.gin",
    ),
    Case(
        "wrong data",
        """
        train.data = @clusterers.Grid()
        """,
        """
        mine.gin:2: train.data = @clusterers.Grid() does not fit its type, Images; it takes @datasets.ImageFolder(), @datasets.Scenes(), @datasets.Segmentation()
        """,
    ),
    Case(
        "word not allowed in a joint",
        """
        objects/Search.level = 'patch'
        """,
        """
        mine.gin:2: objects/Search.level = 'patch' is not allowed: it must be 'region' or 'image'
        """,
    ),
    Case(
        "reference as a key",
        """
        heads.Prototypes.outputs = {%A: 256}
        A = 'image'
        """,
        """
        mine.gin:2: not a gin binding: heads.Prototypes.outputs = {%A: 256}
          the key %A is no plain value
        mine.gin:3: A is set but nothing uses it; nothing in use asks for %A
        """,
    ),
    Case(
        "home of nobody",
        """
        train.data = @datasets.ImageFolder()
        datasets.ImageFolder.root = '~nobody-of-that-name/images'
        """,
        """
        mine.gin:3: datasets.ImageFolder.root = '~nobody-of-that-name/images': there is no such folder; looked at ~nobody-of-that-name/images
        """,
        builds=True,
    ),
    Case(
        "joint in lower case",
        """
        optimizer.name = 'sgd'
        """,
        """
        mine.gin:2: optimizer does not exist; did you mean 'Optimizer'?
        """,
    ),
    Case(
        "masking of other patches than the backbone's",
        """
        maskings.Blocks.patch_size = 16
        """,
        """
        mine.gin:2: maskings.Blocks.patch_size = 16: a step does not work on views of 64 px, 64 px: a mask has 16 patches, but vit_tiny_patch16_224 sees 64 of 8 px in a view of 64 x 64 px: the masking should have patch_size=8
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "masking of other patches by default",
        """
        backbones.Timm.name = 'vit_tiny_patch16_224'
        backbones.Timm.options = {'img_size': 64, 'patch_size': 8, 'depth': 1}
        backbones.Timm.mask = 'token'
        augmenters.Crop.masking = @maskings.Random()
        """,
        """
        mine.gin:5: augmenters.Crop.masking = @maskings.Random(): a step does not work on views of 64 px, 64 px: a mask has 16 patches, but vit_tiny_patch16_224 sees 64 of 8 px in a view of 64 x 64 px: the masking should have patch_size=8
          mine.gin:4: backbones.Timm.mask = 'token'
          mine.gin:3: backbones.Timm.options = {'img_size': 64, 'patch_size': 8, 'depth': 1}
          mine.gin:2: backbones.Timm.name = 'vit_tiny_patch16_224'
          gin/base/small.gin:12: augmenters.Crop.size = 64
          gin/base/small.gin:6: backbones.Timm.padding = 'reflect'
        """,
        base="gin/dino.gin",
        builds=True,
    ),
    Case(
        "masking of patches larger than the view",
        """
        maskings.Blocks.patch_size = 128
        """,
        """
        mine.gin:2: maskings.Blocks.patch_size = 128: patch_size=128, but a view has only 64 pixels
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "masks for a network without patch tokens",
        """
        backbones.Timm.name = 'resnet18'
        backbones.Timm.options = {}
        """,
        """
        gin/base/ibot.gin:11: backbones.Timm.mask = 'token': backbones.Timm refuses: mask='token', but resnet18 has no patch tokens to hide; a ViT of timm has
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "masked views for a network without patch tokens",
        """
        augmenters.Crop.masking = @maskings.Blocks()
        """,
        """
        gin/base/cribo.gin:5: Method.backbone = @backbones.Timm(): a step does not work on views of 64 px, 64 px: a view has a mask, but mask=None: resnet18 has no patch tokens, take a ViT, or leave out augmenters.Crop.masking
        """,
        builds=True,
    ),
    Case(
        "masked views for a backbone that was not told",
        """
        backbones.Timm.mask = None
        """,
        """
        mine.gin:2: backbones.Timm.mask = None: a step does not work on views of 64 px, 64 px: a view has a mask, but mask=None: set Timm.mask = 'token', or leave out augmenters.Crop.masking
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "term of masked patches without masks",
        """
        one/augmenters.Crop.masking = None
        two/augmenters.Crop.masking = None
        """,
        """
        gin/base/ibot.gin:8: patch/Term.aligner = @aligners.MaskedPatches(): a step does not work on views of 64 px, 64 px: term 'patch': no global view has a mask, so there is nothing to predict: set augmenters.Crop.masking
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "prediction of patches that are dropped",
        """
        backbones.Timm.mask = 'drop'
        """,
        """
        gin/base/dino.gin:5: Method.backbone = @backbones.Timm(): Method refuses: term 'patch' compares the student's patches, but the backbone's mask='drop' leaves nothing in the places of hidden patches: set Timm.mask = 'token'
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "different numbers of patches dropped",
        """
        Method.terms = %DINO_TERMS
        backbones.Timm.mask = 'drop'
        """,
        """
        mine.gin:3: backbones.Timm.mask = 'drop': with mask='drop' images that pass together must keep the same number of patches, but 40 to 64 are kept: hide the same number in each (maskings.Random), or set Timm.mask = 'token'
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "prototypes shared with nobody",
        """
        heads.Prototypes.outputs = {'image': 256, 'patch': 'imag'}
        """,
        """
        mine.gin:2: heads.Prototypes.outputs = {'image': 256, 'patch': 'imag'}: heads.Prototypes refuses: outputs={'image': 256, 'patch': 'imag'}, but 'patch' can only share prototypes that another has of its own; there are those of: image
        """,
        base="gin/ibot.gin",
        builds=True,
    ),
    Case(
        "masking that is none",
        """
        augmenters.Crop.masking = @clusterers.Grid()
        """,
        """
        mine.gin:2: augmenters.Crop.masking = @clusterers.Grid() does not fit its type, Masking | None; it takes @maskings.Blocks(), @maskings.Random()
        """,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.replace(" ", "_"))
def test_what_is_wrong_is_said_with_its_place_and_what_would_be_right(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if case.twins:
        twins = {f"{role}.Twin": Known(f"{role}.Twin", _Twin, "component") for role in ("clusterers", "matchers")}
        monkeypatch.setattr(registry, "_KNOWN", {**registry._KNOWN, **twins})
    for name, content in case.files.items():
        Path(name).write_bytes(content)
    include = f"include '{case.base}'\n" if case.base else ""
    Path("mine.gin").write_text(include + textwrap.dedent(case.text).strip("\n") + "\n")
    found = said("mine.gin", given=case.given, builds=case.builds)
    found = found.replace(str(tmp_path), "HERE").replace(str(config.search_path()), "SHIPPED")
    assert found == textwrap.dedent(case.said).strip("\n")
