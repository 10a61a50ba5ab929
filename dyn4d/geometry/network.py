"""A pair network: two pictures in, the points of both in the camera of the first out (DUSt3R, MASt3R).

Written from the papers (Wang et al. 2024, Leroy et al. 2024) and the layout of the published checkpoints, which load
into it as they are. One encoder sees each picture on its own; two decoders, one for each side of the pair, exchange
tokens; a head for each side makes points, confidences and, in MASt3R, descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyn4d.core.types import PairPrediction
from dyn4d.geometry.config import USUAL_DEPTH_ERROR
from dyn4d.geometry.heads import ViewPrediction, make_head
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.transformer import DecoderBlock, EncoderBlock, PatchEmbed, Rotation, patch_positions, rotation_of


@dataclass(frozen=True)
class EncodedImages:
    """What the encoder makes of B pictures of one size: all that is ever needed of them again.

    Attributes:
        tokens: (B, rows · columns, C), row by row. grid: (rows, columns) of patches.
        maps: (B, C, H, W) each, what the heads see of the pictures besides tokens; none in the published networks.
    """

    tokens: Tensor
    grid: tuple[int, int]
    maps: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.tokens.dim() != 3 or self.tokens.shape[1] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"tokens: wanted (B, {self.grid[0]} · {self.grid[1]}, C), found {tuple(self.tokens.shape)}"
            )

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def positions(self) -> Tensor:
        """(N, 2) int64, row and column of each token."""
        return patch_positions(*self.grid, self.tokens.device)

    def to(self, device: torch.device | str) -> EncodedImages:
        return EncodedImages(self.tokens.to(device), self.grid, tuple(each.to(device) for each in self.maps))

    def rows(self, which: slice) -> EncodedImages:
        """Some of the B pictures."""
        return EncodedImages(self.tokens[which], self.grid, tuple(each[which] for each in self.maps))

    def float(self) -> EncodedImages:
        return EncodedImages(self.tokens.float(), self.grid, tuple(each.float() for each in self.maps))

    @staticmethod
    def concatenate(*parts: EncodedImages) -> EncodedImages:
        """One batch of pictures that have one size."""
        if len({part.grid for part in parts}) != 1:
            raise ValueError(f"pictures of one size wanted, found grids {[part.grid for part in parts]}")
        maps = tuple(torch.cat(same) for same in zip(*(part.maps for part in parts)))
        return EncodedImages(torch.cat([part.tokens for part in parts]), parts[0].grid, maps)


@dataclass(frozen=True)
class ViewHints:
    """What a masked network is told of B pictures besides their colours.

    Attributes:
        mask: (B, H, W) bool, True = object; what is outside has no influence on anything.
        focal: (B, 2) px along x and y, the lens if that is known, else some guess that says how large the picture is
            that the view was cut from. centre: (B, 2) px principal point, half-integer; need not be in the view.
        known: (B,) bool, `focal` is the lens'.
    """

    mask: Tensor
    focal: Tensor
    centre: Tensor
    known: Tensor


class PairNetwork(nn.Module):
    """Both sides of a pair, in one module; made for inference, so its parameters start without gradients.

    Runs in float32; under `torch.autocast` the encoder's and the decoders' blocks take the lower precision. What the
    blocks add to stays in float32, and so do the heads, because their exponentials do not survive less.

    Attributes:
        config: its sizes. images_encoded: how many pictures the encoder has seen so far; a frame that takes part in
            many pairs should count once. notes: lines for the user about the file that the weights came from.
        depth_error: relative error that its depth is expected to have.
    """

    def __init__(self, config: PairNetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.images_encoded = 0
        self.notes: tuple[str, ...] = ()
        self.depth_error = USUAL_DEPTH_ERROR
        self._build(config)
        self.requires_grad_(False)
        self.eval()

    def _build(self, config: PairNetworkConfig) -> None:
        enc, dec = config.enc_embed_dim, config.dec_embed_dim
        # In the order of the published state dicts.
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec))  # of the pre-training; never used
        self.patch_embed = PatchEmbed(config.patch_size, enc)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc, config.enc_num_heads, config.mlp_ratio) for _ in range(config.enc_depth)
        )
        self.enc_norm = nn.LayerNorm(enc, eps=1e-6)
        self.decoder_embed = nn.Linear(enc, dec)
        self.dec_blocks = self._decoder()
        self.dec_norm = nn.LayerNorm(dec, eps=1e-6)
        self.dec_blocks2 = self._decoder()
        self.downstream_head1 = make_head(config)
        self.downstream_head2 = make_head(config)

    def _decoder(self) -> nn.ModuleList:
        config = self.config
        return nn.ModuleList(
            DecoderBlock(config.dec_embed_dim, config.dec_num_heads, config.mlp_ratio) for _ in range(config.dec_depth)
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def _rotation(self, positions: Tensor, side: str) -> Rotation:
        # Made anew each time: a few microseconds, and no cache that could keep tensors of another device.
        width, heads = getattr(self.config, f"{side}_embed_dim"), getattr(self.config, f"{side}_num_heads")
        return rotation_of(positions, width // heads, self.config.rope_base)

    # ------------------------------------------------------------------------------------------- the parts

    def encode(self, image: Tensor, hints: ViewHints | None = None) -> EncodedImages:
        """Pictures (B, 3, H, W), float in [0, 1], sRGB → tokens. H and W have to be multiples of the patch size.

        Args:
            hints: of masked networks; others pay them no heed.

        Raises:
            ValueError: another shape, type or range of values.
        """
        self._check_image(image)
        patch = self.config.patch_size
        grid = (image.shape[-2] // patch, image.shape[-1] // patch)
        self.images_encoded += len(image)
        # in full under autocast too: each block would round it again
        tokens = self.patch_embed((image.to(self.device, torch.float32) - 0.5) / 0.5).float()
        rotation = self._rotation(patch_positions(*grid, self.device), "enc")
        for block in self.enc_blocks:
            tokens = block(tokens, rotation)
        return EncodedImages(self.enc_norm(tokens), grid)

    def _check_image(self, image: Tensor) -> None:
        patch = self.config.patch_size
        if image.dim() != 4 or image.shape[1] != 3 or min(image.shape) < 1:
            raise ValueError(f"image: wanted shape (B, 3, H, W), found {tuple(image.shape)}")
        if image.shape[-2] % patch or image.shape[-1] % patch:
            raise ValueError(
                f"image: {image.shape[-1]} x {image.shape[-2]} pixels; width and height have to be multiples of {patch}"
                ": resize or crop the picture first"
            )
        if not image.is_floating_point():
            raise ValueError(f"image: wanted float values in [0, 1], found {image.dtype}; divide by 255 first")
        if not image.is_meta:
            low, high = (float(value) for value in torch.aminmax(image.detach()))
            # Room for what a bicubic filter overshoots; [0, 255] and [-1, 1] are what this is to catch.
            if not (low >= -0.5 and high <= 1.5):
                raise ValueError(f"image: wanted values in [0, 1], found {low:.3g} to {high:.3g}")

    def decode(self, a: EncodedImages, b: EncodedImages) -> tuple[list[Tensor], list[Tensor]]:
        """Token lists of both sides for the heads: the encoder's output, then that of each decoder block.

        Args:
            a, b: the same number of pictures; their sizes may differ.
        """
        if len(a) != len(b):
            raise ValueError(f"pairs: {len(a)} first and {len(b)} second pictures; wanted as many of either")
        rotation_a = self._rotation(a.positions, "dec")
        rotation_b = rotation_a if b.grid == a.grid else self._rotation(b.positions, "dec")
        x, y = self.decoder_embed(a.tokens).float(), self.decoder_embed(b.tokens).float()
        side_a, side_b = [a.tokens], [b.tokens]
        for first, second in zip(self.dec_blocks, self.dec_blocks2):
            x, y = first(x, y, rotation_a, rotation_b), second(y, x, rotation_b, rotation_a)
            side_a.append(x)
            side_b.append(y)
        side_a[-1], side_b[-1] = self.dec_norm(x), self.dec_norm(y)
        return side_a, side_b

    def _head(self, side: int, tokens: list[Tensor], grid: tuple[int, int]) -> ViewPrediction:
        head = self.downstream_head1 if side == 1 else self.downstream_head2
        with torch.autocast(tokens[0].device.type, enabled=False):
            return head([layer.float() for layer in tokens], grid)

    def _views(self, a: EncodedImages, b: EncodedImages) -> tuple[ViewPrediction, ViewPrediction]:
        side_a, side_b = self.decode(a, b)
        return self._head(1, side_a, a.grid), self._head(2, side_b, b.grid)

    # ----------------------------------------------------------------------------------------- predictions

    def predict_pair(self, image_a: Tensor, image_b: Tensor) -> PairPrediction:
        """Points of both pictures in a's camera, with confidences and, in MASt3R, descriptors.

        Args:
            image_a: (B, 3, Ha, Wa), float in [0, 1], sRGB. image_b: (B, 3, Hb, Wb). Nothing is resized or cropped:
                sides are multiples of the patch size (16), of any size and orientation.

        Raises:
            ValueError: another shape, type or range of values.
        """
        return self.predict_encoded(self.encode(image_a), self.encode(image_b))

    forward = predict_pair

    def predict_encoded(self, a: EncodedImages, b: EncodedImages) -> PairPrediction:
        """`predict_pair` for pictures that were encoded before."""
        return pair_prediction(*self._views(a, b))

    def predict_symmetric(self, a: EncodedImages, b: EncodedImages) -> tuple[PairPrediction, PairPrediction]:
        """The pairs (a, b) and (b, a), decoded in one batch where the pictures have one size."""
        if a.grid != b.grid:
            return self.predict_encoded(a, b), self.predict_encoded(b, a)
        first, second = self._views(EncodedImages.concatenate(a, b), EncodedImages.concatenate(b, a))
        there, back = slice(0, len(a)), slice(len(a), None)
        ab, ba = (pair_prediction(first.rows(rows), second.rows(rows)) for rows in (there, back))
        return ab, ba


def pair_prediction(a: ViewPrediction, b: ViewPrediction) -> PairPrediction:
    """Of two views whose points are both in a's camera."""
    return PairPrediction(
        points_a=a.points, points_b_in_a=b.points, conf_a=a.conf, conf_b=b.conf,
        desc_a=a.desc, desc_b=b.desc, desc_conf_a=a.desc_conf, desc_conf_b=b.desc_conf,
    )  # fmt: skip
