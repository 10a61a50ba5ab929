"""What trains R2D2: average precision against counting, losses that ignore what is not seen, gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dyn4d.matching.r2d2_losses import (
    BINS,
    average_precision,
    peakiness_loss,
    reliability_loss,
    similarity_loss,
)
from dyn4d.matching.r2d2_sampling import Samples


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def counted(scores: Tensor, positive: Tensor) -> Tensor:
    """Average precision by its definition: the mean over the right entries of the precision at their rank."""
    out = []
    for row, right in zip(scores, positive):
        order = row.argsort(descending=True)
        hits = right[order].double()
        precision = hits.cumsum(0) / torch.arange(1, len(row) + 1)
        out.append((precision * hits).sum() / hits.sum() if bool(right.any()) else torch.zeros(()).double())
    return torch.stack(out)


def separated(rows: int, count: int, seed: int = 0) -> Tensor:
    """(rows, count) scores in bin centres, no two of a row in one bin."""
    drawn = torch.stack([torch.randperm(BINS, generator=generator(seed + r))[:count] for r in range(rows)])
    return drawn.double() / (BINS - 1)


# ------------------------------------------------------------------------------------------- average precision


def test_average_precision_is_the_counted_one_where_scores_are_well_apart() -> None:
    scores = separated(40, 12)
    positive = torch.rand(40, 12, generator=generator(1)) < 0.3
    positive[0] = False
    found = average_precision(scores, positive)
    assert torch.allclose(found, counted(scores, positive), atol=1e-12)
    assert found[0] == 0


def test_one_right_column_a_row_has_the_reciprocal_rank() -> None:
    scores, column = separated(30, 20), torch.randint(20, (30,), generator=generator(2))
    found = average_precision(scores, column)
    rank = 1 + (scores > scores.gather(1, column[:, None])).sum(1)
    assert torch.allclose(found, 1 / rank.double(), atol=1e-12)
    assert torch.allclose(found, average_precision(scores, torch.nn.functional.one_hot(column, 20).bool()))


def test_average_precision_between_the_bins_is_near_the_counted_one() -> None:
    scores = torch.rand(200, 5, generator=generator(3)).double()
    positive = torch.rand(200, 5, generator=generator(4)) < 0.5
    fine = counted(scores, positive) - average_precision(scores, positive, bins=4001)
    assert fine.min() > -1e-3 and 0 < fine.mean() < 0.03  # a share of a right entry comes before the rest of it
    rough = average_precision(scores, positive)
    assert (rough - counted(scores, positive)).abs().mean() < 0.15


def test_the_order_of_entries_does_not_matter_and_scores_beyond_the_ends_count_as_the_ends() -> None:
    scores = torch.rand(8, 30, generator=generator(5)).double() * 1.6 - 0.3
    positive = torch.rand(8, 30, generator=generator(6)) < 0.2
    order = torch.randperm(30, generator=generator(7))
    wanted = average_precision(scores, positive)
    assert torch.allclose(average_precision(scores[:, order], positive[:, order]), wanted)
    assert torch.allclose(average_precision(scores.clamp(0, 1), positive), wanted)


def test_entries_that_are_not_usable_have_no_say() -> None:
    scores = torch.rand(6, 20, generator=generator(8)).double()
    positive = torch.rand(6, 20, generator=generator(9)) < 0.3
    usable = torch.rand(6, 20, generator=generator(10)) < 0.6
    spoilt = torch.where(usable, scores, torch.full_like(scores, torch.nan)).requires_grad_()
    found = average_precision(spoilt, positive, usable)
    for row in range(6):
        keep = usable[row]
        assert torch.allclose(found[row], average_precision(scores[row : row + 1, keep], positive[row : row + 1, keep]))
    (slope,) = torch.autograd.grad(found.sum(), spoilt)
    assert torch.isfinite(slope).all() and (slope[~usable] == 0).all() and bool((slope[usable] != 0).any())
    one = average_precision(scores, positive, usable[:1])  # one row for all
    assert torch.allclose(one, average_precision(scores, positive, usable[:1].expand(6, -1)))


def test_average_precision_of_nothing() -> None:
    assert average_precision(torch.zeros(3, 0), torch.zeros(3, 0, dtype=torch.bool)).tolist() == [0, 0, 0]
    assert average_precision(torch.zeros(0, 4), torch.zeros(0, 4, dtype=torch.bool)).shape == (0,)
    with pytest.raises(ValueError, match="bins: 1"):
        average_precision(torch.zeros(1, 1), torch.zeros(1, 1, dtype=torch.bool), bins=1)


def test_gradients_of_average_precision() -> None:
    place = torch.randint(0, BINS - 1, (4, 9), generator=generator(11)) + 0.2
    place = place + 0.6 * torch.rand(4, 9, generator=generator(12))  # away from the kinks at the bins' centres
    scores = (place.double() / (BINS - 1)).requires_grad_()
    positive = torch.rand(4, 9, generator=generator(13)) < 0.4
    positive[:, 0] = True
    assert torch.autograd.gradcheck(lambda s: average_precision(s, positive), (scores,), eps=1e-7, atol=1e-5)


def test_the_right_entry_is_pushed_up_and_the_wrong_ones_down() -> None:
    scores = (0.3 + 0.4 * torch.rand(500, 40, generator=generator(14))).double().requires_grad_()
    (slope,) = torch.autograd.grad(average_precision(scores, torch.zeros(500).long()).mean(), scores)
    assert slope[:, 0].mean() > 0 > slope[:, 1:].mean()  # on the whole: within a bin there is no order
    better = average_precision(scores + 0.3 * slope / slope.abs().max(), torch.zeros(500).long()).mean()
    assert better > average_precision(scores, torch.zeros(500).long()).mean()


# -------------------------------------------------------------------------------------------- reliability loss


def samples(reliability: Tensor, *, known: Tensor | None = None, seed: int = 0) -> Samples:
    count = len(reliability)
    scores = torch.rand(count, 12, generator=generator(seed)).to(reliability.dtype)
    partner = torch.randint(12, (count,), generator=generator(seed + 1))
    known = torch.ones(count, dtype=torch.bool) if known is None else known
    return Samples(scores, partner, known, torch.ones(1, 12, dtype=torch.bool), reliability)


def test_the_reliability_loss_is_its_equation() -> None:
    trust = torch.rand(50, generator=generator(20)).double()
    given = samples(trust)
    ap = average_precision(given.scores, given.partner)
    assert torch.allclose(reliability_loss(given), (1 - ap * trust - (1 - trust) * 0.5).mean())
    assert torch.allclose(reliability_loss(samples(torch.ones(50).double()), kappa=0.0), (1 - ap).mean())
    assert torch.allclose(reliability_loss(given, plain=1.0), (1 - ap).mean())
    mixed = 0.5 * reliability_loss(given, kappa=0.3) + 0.5 * (1 - ap).mean()
    assert torch.allclose(reliability_loss(given, kappa=0.3, plain=0.5), mixed)


def test_reliability_pays_only_above_kappa() -> None:
    scores = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.9, 0.9]], dtype=torch.float64)  # an AP of 1, and one of about 1/3
    trust = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    given = Samples(scores, torch.tensor([0, 0]), torch.ones(2).bool(), torch.ones(1, 3).bool(), trust)
    (slope,) = torch.autograd.grad(reliability_loss(given), trust)
    assert slope[0] < 0 < slope[1]


def test_queries_without_a_partner_contribute_nothing() -> None:
    known = torch.tensor([True, False, True, False])
    trust = torch.rand(4, generator=generator(21)).double().requires_grad_()
    given = samples(trust, known=known)
    scores = given.scores.requires_grad_()
    loss = reliability_loss(given)
    kept = Samples(scores[known], given.partner[known], known[known], given.usable, trust[known])
    assert torch.allclose(loss, reliability_loss(kept))
    for slope in torch.autograd.grad(loss, (scores, trust)):
        assert (slope[~known] == 0).all()
    assert reliability_loss(samples(trust, known=torch.zeros(4).bool())) == 0


# ------------------------------------------------------------------------------------- similarity, peakiness


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=generator(seed)).double()


def test_equal_maps_are_similar_whatever_their_scale() -> None:
    a, valid = maps(2, 1, 40, 36), torch.ones(2, 40, 36).bool()
    assert similarity_loss(a, a, valid).abs() < 1e-9
    assert similarity_loss(a, 0.3 * a, valid).abs() < 1e-9
    other = similarity_loss(a, maps(2, 1, 40, 36, seed=1), valid)
    assert other > 0.1
    assert torch.allclose(other, similarity_loss(maps(2, 1, 40, 36, seed=1), a, valid))


def test_the_similarity_loss_of_one_patch_is_its_cosine() -> None:
    a, b = maps(1, 1, 16, 16), maps(1, 1, 16, 16, seed=1)
    wanted = 1 - (a * b).sum() / (a.norm() * b.norm())
    assert torch.allclose(similarity_loss(a, b, torch.ones(1, 16, 16).bool()), wanted)
    assert torch.isfinite(similarity_loss(a[..., :5], b[..., :5], torch.ones(1, 16, 5).bool()))  # less than a patch


def test_what_is_not_seen_has_no_weight_in_the_similarity() -> None:
    a, b, valid = maps(1, 1, 48, 32), maps(1, 1, 48, 32, seed=1), torch.ones(1, 48, 32).bool()
    valid[:, 16:] = False
    spoilt = torch.where(valid[:, None], b, torch.full_like(b, torch.nan)).requires_grad_()
    loss = similarity_loss(a, spoilt, valid)
    (slope,) = torch.autograd.grad(loss, spoilt)
    assert torch.isfinite(slope).all() and (slope[:, :, 16:] == 0).all() and bool((slope != 0).any())
    assert torch.allclose(loss, similarity_loss(a, torch.where(valid[:, None], b, 7.0), valid))
    assert similarity_loss(a, b, torch.zeros_like(valid)) == 0


def test_peaks_are_better_than_plains() -> None:
    flat, peaky = torch.full((1, 1, 32, 32), 0.5), torch.zeros(1, 1, 32, 32)
    peaky[..., 4::8, 4::8] = 1
    assert peakiness_loss(flat) == 1
    assert peakiness_loss(peaky, patch=8) < 0.05
    assert torch.allclose(peakiness_loss(peaky + 0.3), peakiness_loss(peaky))  # only differences count


@pytest.mark.parametrize(
    "loss",
    [
        lambda m: similarity_loss(m[:1], m[1:], torch.ones(1, 10, 10).bool(), patch=4),
        lambda m: peakiness_loss(m, patch=4),
    ],
)
def test_gradients_of_the_map_losses(loss: Callable[[Tensor], Tensor]) -> None:
    assert torch.autograd.gradcheck(loss, (maps(2, 1, 10, 10).requires_grad_(),))


def test_maps_of_other_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="repeatability_b"):
        similarity_loss(maps(1, 1, 8, 8), maps(1, 1, 8, 9), torch.ones(1, 8, 8).bool())
    with pytest.raises(ValueError, match="repeatability"):
        peakiness_loss(maps(1, 2, 8, 8))


def test_float32_agrees_with_float64() -> None:
    scores, column = torch.rand(64, 500, generator=generator(30)), torch.arange(64)
    single, double = average_precision(scores, column), average_precision(scores.double(), column)
    assert single.dtype == torch.float32 and torch.allclose(single.double(), double, atol=1e-4)
