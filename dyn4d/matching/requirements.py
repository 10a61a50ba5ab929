"""Whether the matching of a clip has what it needs, told before anything is computed."""

from __future__ import annotations

from pathlib import Path

from dyn4d.core.types import Clip
from dyn4d.io.flow_files import open_flow_folder
from dyn4d.matching.calibration import tables_of
from dyn4d.matching.config import MatchingConfig
from dyn4d.matching.given_flows import find_flow_folder


def require_matching(clip: Clip, config: MatchingConfig) -> None:
    """Look whether files and packages that `config` names are there. Reads first bytes and names of files only; what is
    damaged farther in is found when it is read.

    Raises:
        InputError: weights, a calibration, flow files or torchvision are missing, or certainly not what they should be.
    """
    if "flow" in config.matcher and config.flow == "raft":
        from dyn4d.matching.raft import check_raft

        check_raft(config.flow_weights)
    if "flow" in config.matcher and config.flow == "files":
        folder = find_flow_folder(clip, config.flow_files)
        open_flow_folder(folder, clip.timeline.names, clip.width, clip.height)
    if config.weights:
        from dyn4d.matching.r2d2_weights import weights_kind

        weights_kind(Path(config.weights).expanduser())
    if config.calibration:
        tables_of(config.calibration)
