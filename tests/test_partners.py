"""Partners of whole images: what is drawn, from what, when, and what a restart or another rank makes of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from sslkit import draws
from sslkit.contracts.component import assert_same_state, state_of
from sslkit.matchers import Adaptive, Nearest
from sslkit.memories import PerImage
from sslkit.method import Method
from sslkit.partners import Partners
from tests.test_method import batch_of, method_of, taken, terms_of

N = 12


def partners_of(matcher=None, *, window=2, start_epoch=None, warmup_epochs=0):
    memory = PerImage(n_neighbours=4, window=window, warmup_epochs=warmup_epochs)
    return Partners(memory=memory, matcher=matcher or Adaptive(temperature=0.5), start_epoch=start_epoch)


def method_with(partners, folder=None):
    method = method_of(terms=terms_of(("image",)), clusterer=None, searches=None, partners=partners)
    method.make_room(N, folder)
    return method


def seen(first, epoch):
    """Four images as an epoch shows them: their own pixels, and noise that is another every time."""
    batch, noise = batch_of(first, first_image=first, epoch=epoch), batch_of(100 + 10 * epoch + first)
    views = [replace(v, pixels=v.pixels + 0.7 * n.pixels) for v, n in zip(batch.views, noise.views, strict=True)]
    return replace(batch, views=tuple(views))


def epoch_of(method: Method, epoch: int, *, label=None):
    """One pass over the data in batches of 4, as `train` makes it: partners first, then steps."""
    table = method.partners.draw(epoch, seed=3, needed=0)
    for first in range(0, N, 4):
        batch = replace(seen(first, epoch), partner=table[first : first + 4])
        batch = batch if label is None else replace(batch, label=label[first : first + 4])
        method.update([method(batch)])
    return table


def test_before_the_start_every_image_is_its_own_partner():
    method = method_with(partners_of(Nearest(), start_epoch=3))
    own = torch.arange(N)
    assert all(torch.equal(epoch_of(method, epoch), own) for epoch in range(3))
    assert not torch.equal(epoch_of(method, 3), own)


def test_the_start_is_where_the_window_is_full_unless_one_is_given():
    assert partners_of(window=7).start_epoch == 7
    assert partners_of(window=7, warmup_epochs=2).start_epoch == 9
    assert partners_of(window=7, start_epoch=1).start_epoch == 1
    with pytest.raises(ValueError, match="start_epoch=2, but neighbours of the first warmup_epochs=2 do not count"):
        partners_of(start_epoch=2, warmup_epochs=2)


def test_epochs_in_which_no_image_can_meet_itself_do_not_count():
    method = method_with(partners_of(Nearest(), window=1, warmup_epochs=1))
    assert all(torch.equal(epoch_of(method, epoch), torch.arange(N)) for epoch in range(2))
    assert (epoch_of(method, 2) != torch.arange(N)).all()
    assert method.partners.report["partners/self_first"] > 0


def test_the_batches_of_one_step_do_not_meet_one_another():
    together, apart = method_with(partners_of()), method_with(partners_of())
    whole = seen(0, 0)
    halves = [taken(whole, torch.tensor(chosen)) for chosen in ([0, 1], [2, 3])]
    together.update([together(whole)])
    apart.update([apart(half) for half in halves])
    images = torch.arange(4)
    assert torch.equal(together.partners.memory.rows(images), apart.partners.memory.rows(images))
    assert apart.partners.memory.neighbours(images).index.eq(-1).all()


def test_a_step_keeps_the_teachers_vectors_of_view_one_and_did_not_search_among_them():
    method = method_with(partners_of())
    epoch_of(method, 0)
    batch = seen(4, 1)
    before = method.partners.memory.rows(torch.arange(N)).clone()
    outcome = method(batch)
    method.update([outcome])
    kept = F.normalize(outcome.step.teacher.images[0], dim=1)
    torch.testing.assert_close(method.partners.memory.rows(batch.index), kept)
    expected = (kept @ before.T).topk(4, dim=1)
    found = method.partners.memory.neighbours(batch.index)
    assert torch.equal(found.index, expected.indices)
    torch.testing.assert_close(found.similarity, expected.values)


def test_partners_are_the_matchers_choice_among_the_candidates_by_the_images_own_chance():
    method = method_with(partners_of(start_epoch=1))
    epoch_of(method, 0)
    epoch_of(method, 1)
    table = method.partners.draw(2, seed=3, needed=0)
    candidates = method.partners.memory.candidates(2)
    chance = draws.uniform(3, 2, torch.arange(N), 1, "partner")[:, 0]
    for image in range(N):
        p = (candidates.score[image] / 0.5).softmax(dim=0)
        drawn = int((p.cumsum(dim=0) <= chance[image]).sum())
        assert table[image] == (candidates.index[image, drawn] if candidates.index[image, 0] == image else image)
    assert 0 < (table != torch.arange(N)).sum() < N


def test_asked_again_in_the_middle_of_an_epoch_the_partners_stay():
    method = method_with(partners_of(Nearest(), start_epoch=1))
    epoch_of(method, 0)
    table = epoch_of(method, 1)
    method.update([method(seen(0, 1))])  # the tables move on
    assert torch.equal(method.partners.draw(1, seed=3, needed=0), table)


@pytest.mark.parametrize("on_disk", [True, False])
def test_a_restored_method_goes_on_with_the_same_partners(tmp_path, on_disk):
    folder = tmp_path if on_disk else None
    method = method_with(partners_of(start_epoch=1), folder)
    for epoch in range(3):
        epoch_of(method, epoch)
    method.partners.draw(3, seed=3, needed=0)
    method.update([method(seen(4, 3))])
    torch.save(method.state_dict(), tmp_path / "state.pt")
    restored = method_with(partners_of(start_epoch=1), folder)
    restored.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for each in (method, restored):
        assert torch.equal(each.partners.draw(3, seed=3, needed=0), method.partners.table)
    for epoch in (4, 5):
        assert torch.equal(epoch_of(method, epoch), epoch_of(restored, epoch))
    assert_same_state(state_of(method), restored.state_dict())
    assert method.partners.report == restored.partners.report


def test_the_report_counts_who_leads_who_moved_and_whose_labels_agree():
    label = torch.arange(N) // 3
    label[:2] = -1  # not known
    method = method_with(partners_of(Nearest(), start_epoch=1))
    for epoch in range(2):
        epoch_of(method, epoch, label=label)
    table = epoch_of(method, 2, label=label)
    report, candidates = method.partners.report, method.partners.memory.candidates(2)
    assert report["partners/self_first"] == pytest.approx((candidates.index[:, 0] == torch.arange(N)).float().mean())
    assert report["partners/bootstrapped"] == 1
    pairs = [(label[i], label[j]) for i, j in enumerate(table.tolist()) if label[i] >= 0 and label[j] >= 0]
    agreement = sum(int(a == b) for a, b in pairs) / len(pairs)
    assert report["partners/partner_label"] == pytest.approx(agreement)
    assert report["partners/neighbour_label"] == pytest.approx(agreement)  # the nearest other is what `Nearest` takes


def test_an_image_that_has_met_nobody_yet_keeps_to_itself():
    method = method_with(partners_of(Nearest(), start_epoch=1))
    epoch_of(method, 0)
    table = method.partners.draw(1, seed=3, needed=0)
    assert table[:4].tolist() == [0, 1, 2, 3]  # the first batch of the run searched an empty memory
    assert (table != torch.arange(N))[4:].all()
    assert table[4:8].lt(4).all()


def test_images_without_labels_leave_agreement_out():
    method = method_with(partners_of(Nearest(), start_epoch=1))
    epoch_of(method, 0)
    epoch_of(method, 1)
    assert method.partners.report.keys() == {"partners/self_first", "partners/bootstrapped"}


def test_partners_do_not_change_the_first_steps_of_a_run():
    plain = method_of(terms=terms_of(("image",)), clusterer=None, searches=None)
    with_partners = method_with(partners_of())
    batch = batch_of(b=4)
    assert plain(batch).total == with_partners(batch).total
