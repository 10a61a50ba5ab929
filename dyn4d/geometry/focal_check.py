"""Is the network's focal length what the matches say?

A network that takes a lens for too long stretches all that it sees along the axis, and says so in all passes alike:
neither its points nor its relative poses give it away. Where the views turn enough, the reprojection of the matches
does. It is asked alone, without what the passes say of poses; where it contradicts the network clearly, everything that
the network said is brought to the focal length found, and the alignment starts anew.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dyn4d.geometry.bundle import Bundle, BundleConfig
from dyn4d.geometry.bundle_state import FOCAL, BundleState
from dyn4d.geometry.pair_results import PairResult, PairResults
from dyn4d.geometry.reprojection import make_directions
from dyn4d.geometry.sparse_problem import PairMatches, SparseProblem
from dyn4d.geometry.sparse_start import Intrinsics

LEAST_CHANGE = 0.1  # logarithm of the focal: what is nearer, the alignment finds by itself
LEAST_GIVEN = 0.05  # the same of one that is given
LARGEST_CHANGE = 0.8  # beyond a factor of 2.2 matches are more likely to be wrong than the network
SIGMAS = 8.0  # by how many (optimistic) standard deviations the matches have to contradict the network,
GAIN = 10.0  # by how much they have to fit better, half squares,
RELIEF = 1.5  # and how far the network's relief may have to bend all the same, times what is taken for usual at first
OPEN = 0.1  # standard deviation of the logarithm at which the matches say next to nothing
MATCHES, PAIR_MATCHES = 20000, 200  # in all and of a pair: few unknowns


@dataclass(frozen=True)
class FocalCheck:
    """What the matches say of the focal length of the frames without K.

    Attributes:
        factor: by which the network's is to be multiplied, 1 = it stands. sigma: of the factor's logarithm.
    """

    factor: float
    sigma: float


def check_focal(
    problem: SparseProblem, pairs: Sequence[PairMatches], state: BundleState, config: BundleConfig
) -> FocalCheck | None:
    """One factor for all active frames whose focal length is not given; None where there is none or no match.

    Args:
        pairs: that are tied by their matches. state: where the alignment starts. config: its settings.
    """
    free = state.active & ~state.fixed_focal
    if not config.refine_focal or not bool(free.any()) or not any(len(pair) for pair in pairs):
        return None
    most = max(min(PAIR_MATCHES, MATCHES // len(pairs)), 20)
    loose = replace(
        config, shared_intrinsics=True, refine_principal_point=False, focal_sigma=1.0, max_per_pair=most, iterations=30
    )
    directions = make_directions(problem, pairs, most)
    bundle = Bundle(problem, directions, [], state, loose)
    found = bundle.solve()
    sigma = _sigma(bundle, found)
    change = float(torch.log(found.focal / state.focal)[free].median())
    stays = FocalCheck(1.0, sigma)
    if not max(LEAST_CHANGE, SIGMAS * sigma) < abs(change) < LARGEST_CHANGE:
        return stays
    if bundle.depth_sigma > RELIEF * config.depth_sigma:  # a thing that bends moves its matches in other ways
        return stays
    held = Bundle(problem, directions, [], replace(found, focal=state.focal), replace(loose, refine_focal=False))
    there = held.solve()
    if bundle.cost(there) < bundle.cost(found) + GAIN:
        return stays
    return FocalCheck(math.exp(change), sigma)


def _sigma(bundle: Bundle, state: BundleState) -> float:
    """Standard deviation of the logarithm of the focal by the matches and the relief, without its own prior."""
    H, g, anchors = bundle._normal_equations(state, bundle._measure(state))
    S, rhs = torch.nn.functional.pad(H, (0, 1, 0, 1)), torch.nn.functional.pad(g, (0, 1))
    for kept in anchors:
        kept.eliminate(S, rhs, 0.0)
    column = int(bundle.index[:, FOCAL].max())
    unit = torch.zeros_like(S[:-1, 0])
    unit[column] = 1
    factor, failed = torch.linalg.cholesky_ex(S[:-1, :-1] + 1e-9 * torch.diag(S.diagonal()[:-1].abs()))
    if int(failed):
        return math.inf
    variance = float(torch.cholesky_solve(unit[:, None], factor)[column, 0])
    information = 1 / variance - 1 / bundle.config.focal_sigma**2
    return information**-0.5 if information > 1e-12 else math.inf


def stretch_factors(lens: Intrinsics, check: FocalCheck | None) -> Tensor | None:
    """(T,) what depths along each frame's axis are to be multiplied by: to the given focal length, else to the one
    that the matches say. None where all are near enough to 1."""
    said = torch.full_like(lens.focal, 1.0 if check is None else check.factor)
    factors = torch.where(lens.given, lens.focal / lens.network_focal, said)
    return factors if bool((torch.log(factors).abs() > LEAST_GIVEN).any()) else None


@dataclass(frozen=True)
class StretchedResults:
    """Results with what is seen from each frame stretched along its axis by a factor (T,)."""

    results: PairResults
    factors: Tensor

    @property
    def pairs(self) -> Sequence[tuple[int, int]]:
        return self.results.pairs

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> PairResult:
        return self._stretched(self.results[index])

    def __iter__(self) -> Iterator[PairResult]:
        return (self._stretched(result) for result in self.results)

    def _stretched(self, result: PairResult) -> PairResult:
        by = {}
        for name in ("a_in_a", "b_in_a", "b_in_b", "a_in_b"):
            points = getattr(result, name)
            camera = result.frame_a if name.endswith("a") else result.frame_b
            by[name] = points * points.new_tensor([1.0, 1.0, float(self.factors[camera])])
        return replace(result, **by)
