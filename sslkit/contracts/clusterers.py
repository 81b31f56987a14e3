"""What clusterers keep to."""

from __future__ import annotations

import pytest
import torch

from sslkit.clusterers import Clusterer
from sslkit.contracts.component import ComponentContract
from sslkit.contracts.inputs import DIM, blank, images

K = 4


class ClustererContract(ComponentContract[Clusterer]):
    """An assignment of tokens to 4 clusters that their seeds alone decide, image by image."""

    role = "clusterers"

    def make(self) -> Clusterer:
        """A clusterer of 4 clusters."""
        raise NotImplementedError

    def test_every_token_has_one_cluster_and_one_vote(self) -> None:
        assignment = self.component()(*images(3, 12, DIM, K))
        assert assignment.shape == (3, 12, K)
        votes = assignment.sum(dim=-1)  # 1 for each token if hard, its share of the mass if soft
        torch.testing.assert_close(votes, votes[:, :1].expand_as(votes))
        assert (votes > 0).all()
        assert (assignment >= 0).all()

    def test_no_gradient_passes(self) -> None:
        tokens, positions, seeds = images(2, 12, DIM, K)
        assert not self.component()(tokens.requires_grad_(), positions, seeds).requires_grad

    def test_permuting_the_images_permutes_the_answer(self) -> None:
        tokens, positions, seeds = images(4, 12, DIM, K)
        order = torch.tensor([2, 0, 3, 1])
        clusterer = self.component()
        expected = clusterer(tokens, positions, seeds)[order]
        assert torch.equal(clusterer(tokens[order], positions[order], seeds[order]), expected)

    def test_an_image_has_the_clusters_that_it_has_alone_unless_its_scope_says_that_images_meet(self) -> None:
        clusterer, given = self.component(), images(4, 12, DIM, K)
        alone = [clusterer(*one) for one in zip(*(x.split(1) for x in given), strict=True)]
        assert torch.allclose(torch.cat(alone), clusterer(*given)) == (clusterer.scope is None)

    def test_the_same_seeds_give_the_same_answer(self) -> None:
        clusterer, given = self.component(), images(2, 12, DIM, K)
        first = clusterer(*given)
        clusterer(*images(2, 12, DIM, K, seed=9))
        torch.manual_seed(7)
        assert torch.equal(clusterer(*given), first)

    def test_without_seeds_the_generator_of_torch_decides(self) -> None:
        clusterer, (tokens, positions, _) = self.component(), images(2, 12, DIM, K)
        answers = []
        for _ in range(2):
            torch.manual_seed(3)
            answers.append(clusterer(tokens, positions))
        assert torch.equal(*answers)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_tokens_of_any_precision_are_clustered_in_at_least_float32(self, dtype: torch.dtype) -> None:
        tokens, positions, seeds = images(2, 12, DIM, K)
        assignment = self.component()(tokens.to(dtype), positions.float(), seeds)
        assert assignment.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)

    def test_mixed_precision_changes_nothing(self) -> None:
        tokens, positions, seeds = images(2, 12, DIM, K, dtype=torch.float32)
        clusterer = self.component()
        expected = clusterer(tokens, positions, seeds)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(clusterer(tokens, positions, seeds), expected)

    def test_its_input_stays_as_it_was(self) -> None:
        given = images(2, 12, DIM, K)
        before = [x.clone() for x in given]
        self.component()(*given)
        assert all(torch.equal(x, y) for x, y in zip(given, before, strict=True))

    def test_more_clusters_than_tokens_are_refused(self) -> None:
        tokens, positions, _ = images(2, K - 1, DIM, 1)
        with pytest.raises(ValueError, match=f"n_clusters={K}, but an image has only {K - 1} tokens"):
            self.component()(tokens, positions)

    def test_as_many_clusters_as_tokens_are_fine(self) -> None:
        assert self.component()(*images(2, K, DIM, K)).shape == (2, K, K)

    def test_nothing_is_remembered(self) -> None:
        assert self.component().state_dict() == {}

    def test_it_can_be_tried_out_before_there_is_data(self) -> None:
        given = blank(images(2, 12, DIM, K))
        with torch.device("meta"):
            assert self.component()(*given).shape == (2, 12, K)
