"""Schedules against the authors' tables, to 1e-9."""

import numpy as np

from sslkit.schedules import Cosine, Linear, Time


def over_run(schedule, n_steps, per_epoch):
    return [schedule(Time(step=i, n_steps=n_steps, steps_per_epoch=per_epoch)) for i in range(n_steps)]


def test_every_iteration_has_the_authors_rates(reference):
    z = reference("schedules.npz")
    base, final, epochs, per_epoch, warmup = z["lr_args"].tolist()
    n_steps = int(epochs * per_epoch)
    expected = {
        "lr": Cosine(base, final, warmup_epochs=warmup),
        "weight_decay": Cosine(0.04, 0.4),
        "momentum": Cosine(0.996, 1.0),
    }
    for name, schedule in expected.items():
        np.testing.assert_allclose(
            over_run(schedule, n_steps, int(per_epoch)), z[name], rtol=0, atol=1e-9, err_msg=name
        )


def test_every_epoch_has_the_authors_teacher_temperature(reference):
    z = reference("schedules.npz")
    start, end, warmup, epochs = z["teacher_temperature_args"].tolist()
    values = over_run(Linear(start, end, epochs=int(warmup), stepwise=True), int(epochs) * 7, 7)
    np.testing.assert_allclose(values, z["teacher_temperature_per_epoch"].repeat_interleave(7), rtol=0, atol=1e-9)
