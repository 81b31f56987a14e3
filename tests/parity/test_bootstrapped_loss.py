"""AdaSim's two-view loss with its centre against the authors' program: logits in, loss, gradient and centre out."""

import torch

from sslkit.aligners import ImageAcrossViews
from sslkit.centerings import Mean
from sslkit.losses import Distillation
from sslkit.types import Batch, Features, Step


def test_loss_gradient_and_centre_are_the_authors(reference):
    z = reference("adasim_loss.npz")
    student, b = z["student"].requires_grad_(), len(z["student"]) // 2
    centering = Mean(momentum=z["center_momentum"])
    centering.build(z["teacher"].shape[1])
    centering.centre.copy_(z["center_before"][0])

    def features(x, sources=(0, 1)):  # the second view shows the partner
        return Features(x.chunk(2), (torch.zeros(b, 1, 1),) * 2, ((1, 1),) * 2, torch.arange(b), sources)

    pairs = ImageAcrossViews()(Step(Batch((), 2, torch.arange(b)), features(student), features(z["teacher"]), None, {}))
    loss = Distillation(student_temperature=z["student_temperature"], teacher_temperature=z["teacher_temperature"])
    offset = centering(z["teacher"], torch.ones(2 * b))
    found = loss(pairs.prediction.rows, pairs.target.rows - offset, pairs)
    found.backward()
    torch.testing.assert_close(found, torch.tensor(z["loss"]), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(student.grad, z["grad_student"], rtol=1e-5, atol=1e-7)
    centering.move(z["teacher"], torch.ones(2 * b))
    torch.testing.assert_close(centering.centre, z["center_after"][0], rtol=1e-5, atol=1e-7)
