"""CrIBo's three losses and their centres against the authors' program: logits in, losses, gradients and centres out."""

import torch

from sslkit.aligners import ImageAcrossViews, RegionAcrossImages, RegionAcrossViews
from sslkit.centerings import Mean
from sslkit.losses import Distillation
from sslkit.schedules import Time
from sslkit.term import Term
from sslkit.types import Batch, Features, Matches, Regions, Rows, Step


def rows(x, n_views=2):
    n = len(x) // n_views
    item = torch.arange(n).repeat(n_views)
    return Rows(x, torch.arange(n_views).repeat_interleave(n), item, item, torch.ones(len(x)))


def step_of(z):
    """The step whose rows are the given logits themselves."""
    student, teacher = (z[k].clone().requires_grad_() for k in ("student_image", "student_objects")), z["teacher_image"]
    image, objects = student
    b, n = len(teacher) // 2, len(objects) // 2
    index = torch.arange(b)

    def features(x):
        return Features(x.chunk(2), (torch.zeros(b, 1, 1),) * 2, ((1, 1),) * 2, index, (0, 0))

    regions = Regions(
        views=(0, 1),
        labels=torch.zeros(2, n, 1, dtype=torch.long),
        assignment=torch.zeros(2, n, 1, 1),
        valid=torch.ones(n, 1, dtype=torch.bool),
        student=rows(objects),
        teacher=rows(z["teacher_objects"]),
        cluster=torch.zeros(n, dtype=torch.long),
        place=torch.zeros(2, n, 2),
    )
    found = torch.stack([z["neighbour_logits_from_view1"][0], z["neighbour_logits_from_view2"][1]])
    accepted = torch.stack([z["accepted_from_view1"], z["accepted_from_view2"]]).float()
    nowhere = torch.zeros(2, n, dtype=torch.long)
    matches = Matches(nowhere, accepted, found, nowhere, torch.zeros(2, n, 2))
    step = Step(Batch((), 2, index), features(image), features(teacher), regions, {"objects": matches})
    return step, image, objects


def terms(z):
    def loss(which):
        return Distillation(
            student_temperature=z[f"student_temperature_{which}"], teacher_temperature=z["teacher_temperature"]
        )

    return {
        "image": Term(aligner=ImageAcrossViews(), loss=loss("image"), head="image"),
        "object_cross_view": Term(aligner=RegionAcrossViews(), loss=loss("object"), head="object"),
        "object_cross_image": Term(
            aligner=RegionAcrossImages("objects", normalise="first_direction"),
            loss=loss("object"),
            head="object",
            start_epoch=1,
        ),
    }


def losses_of(z, step):
    made = {}
    for name, term in terms(z).items():
        term.set_time(Time(step=z["epoch"], n_steps=100))
        pairs = term.aligner(step)
        logits = pairs.target.rows - z[f"center_{term.head}_before"]
        made[name] = term.loss(pairs.prediction.rows, logits, pairs) if term.is_on else torch.zeros(())
    return made


def test_losses_are_the_authors(losses):
    step, _, _ = step_of(losses)
    for name, loss in losses_of(losses, step).items():
        torch.testing.assert_close(loss, torch.tensor(losses[f"loss_{name}"]), rtol=1e-5, atol=1e-7, msg=name)


def test_gradients_are_the_authors(losses):
    step, image, objects = step_of(losses)
    sum(losses_of(losses, step).values()).backward()
    torch.testing.assert_close(image.grad, losses["grad_student_image"], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(objects.grad, losses["grad_student_objects"], rtol=1e-5, atol=1e-7)


def test_centres_are_the_authors(losses):
    for name in ("image", "object"):
        centering = Mean(momentum=losses["center_momentum"])
        centering.build(losses[f"center_{name}_before"].shape[1])
        centering.centre.copy_(losses[f"center_{name}_before"][0])
        logits = losses["teacher_image" if name == "image" else "teacher_objects"]
        centering.move(logits, torch.ones(len(logits)))
        torch.testing.assert_close(centering.centre, losses[f"center_{name}_after"][0], rtol=1e-5, atol=1e-7)
