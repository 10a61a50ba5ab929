"""dyn4d's own small masked MASt3R: what a pair network can be that learns from little.

The same task and the same answers as MASt3R's (Leroy et al., ECCV 2024): the points of both pictures in the first
one's camera, confidences, descriptors. What differs helps a small network:

- the mask is an input, and colours outside it are removed: the background cannot have an influence;
- so is the direction that each pixel looks in, by the lens if that is known, else by a usual one;
- patches are embedded by convolutions (Xiao et al., "Early Convolutions Help Transformers See Better", NeurIPS 2021),
  whose finer maps go to the head too, and which do most of the work: on the same processor time they teach as much as
  more attention, by fewer and cheaper blocks;
- one decoder and one head serve both sides, which nothing tells apart: what is said of a pair serves it turned too;
- a point lies on its pixel's ray, so that the head says a depth for each pixel, and of each view one factor of the
  focal length; the second view's points are brought to the first camera by one motion, which the descriptors of both
  say (`soft_motion`) and its tokens correct.

So the untrained network says a plane at depth 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyn4d.core.types import PairPrediction
from dyn4d.geometry.heads import ViewPrediction, to_confidence, to_descriptors
from dyn4d.geometry.network import EncodedImages, PairNetwork, ViewHints, pair_prediction
from dyn4d.geometry.network_config import PairNetworkConfig
from dyn4d.geometry.soft_motion import ViewCells, motion_between
from dyn4d.geometry.transformer import DecoderBlock, EncoderBlock, patch_positions

USUAL_FOCAL = 1.2  # over the longest side of a picture, where the lens is not known
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2)  # of the view: sides of the squares in which the share of the object is told
INPUTS = 9 + len(SHARES)  # colours, mask, direction along x and y, is the lens known?, place in the object, shares
LOG_DEPTH = 4.0  # most that a depth differs from 1, as a logarithm
TEMPERATURE = 0.07  # of the descriptors where they say the motion between the views, at first
LOCAL = 32  # channels that descriptors are made of, at half the size


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(max(channels // 24, 1) if channels % max(channels // 24, 1) == 0 else 1, channels)


class NormedUnit(nn.Module):
    """x + conv2(gelu(conv1(norm x)))."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = _norm(dim)
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.gelu(self.conv1(self.norm(x))))


def _units(dim: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(NormedUnit(dim) for _ in range(count)))


class Stem(nn.Module):
    """Inputs (B, 13, H, W) → maps at 1/2, 1/4 and 1/8, and tokens' map at 1/16 of the size."""

    def __init__(self, widths: tuple[int, int, int], out: int, units: tuple[int, int]) -> None:
        super().__init__()
        half, quarter, eighth = widths
        self.to_half = nn.Sequential(nn.Conv2d(INPUTS, half, 5, 2, 2), _norm(half), nn.GELU())
        self.to_quarter = nn.Sequential(nn.Conv2d(half, quarter, 3, 2, 1), _norm(quarter), nn.GELU())
        self.unit_quarter = NormedUnit(quarter)
        self.to_eighth = nn.Sequential(nn.Conv2d(quarter, eighth, 3, 2, 1), _norm(eighth), nn.GELU())
        self.units_eighth = _units(eighth, units[0])
        self.to_tokens = nn.Sequential(nn.Conv2d(eighth, out, 3, 2, 1), _units(out, units[1]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        half = self.to_half(x)
        quarter = self.unit_quarter(self.to_quarter(half))
        eighth = self.units_eighth(self.to_eighth(quarter))
        return half, quarter, eighth, self.to_tokens(eighth)


class LocalHead(nn.Module):
    """The stem's maps, and what the head for shapes made of the pair → descriptors and their confidence.

    What the pair adds is nothing at first: both pictures are then described by the same weights, so that what looks
    alike has descriptors alike. Where the two sides may differ from the start, training first puts their descriptors at
    right angles, which contrastive losses take for the best of what is wrong, and stays there.
    """

    def __init__(self, config: PairNetworkConfig) -> None:
        super().__init__()
        self.teaches = 1.0  # share of its gradient that reaches the maps which it shares with the head for shapes
        half, quarter, eighth = config.stem
        self.numbers = config.desc_dim + 1
        self.from_half = nn.Conv2d(half, LOCAL, 1)
        self.from_quarter = nn.Conv2d(quarter, LOCAL, 1)
        self.from_eighth = nn.Conv2d(eighth, LOCAL, 1)
        self.from_pair = nn.Conv2d(config.fusion_dim, LOCAL, 1)
        self.unit = NormedUnit(LOCAL)
        self.out = nn.Conv2d(LOCAL, self.numbers * 4, 1)
        with torch.no_grad():  # the four pixels of a place begin alike
            self.out.weight.copy_(self.out.weight[::4].repeat_interleave(4, 0))
            self.out.bias.zero_()  # type: ignore[union-attr]
            self.from_pair.weight.zero_()
            self.from_pair.bias.zero_()  # type: ignore[union-attr]

    def forward(self, half: Tensor, quarter: Tensor, eighth: Tensor, pair: Tensor, mask: Tensor) -> Tensor:
        """(B, H, W, D + 1) of maps at 1/2, 1/4, 1/8 and 1/4, and the mask (B, H, W)."""
        half, quarter, eighth, pair = (_taught(m, self.teaches) for m in (half, quarter, eighth, pair))
        at_quarter = self.from_quarter(quarter) + self.from_pair(pair) + _double(self.from_eighth(eighth))
        x = self.unit(self.from_half(half) + _double(at_quarter))
        x = _standardised(x, F.avg_pool2d(mask[:, None], 2))
        return F.pixel_shuffle(self.out(x), 2).permute(0, 2, 3, 1)


class RayHead(nn.Module):
    """Tokens and the stem's maps → points along the pixels' rays, confidences and descriptors."""

    def __init__(self, config: PairNetworkConfig) -> None:
        super().__init__()
        self.config = config
        dec, wide = config.dec_embed_dim, config.fusion_dim
        self.from_tokens = nn.Conv2d(config.enc_embed_dim + dec, 2 * wide, 1)
        self.coarse = NormedUnit(2 * wide)
        self.narrow = nn.Conv2d(2 * wide, wide, 1)
        self.from_eighth = nn.Conv2d(config.stem[2], 2 * wide, 1)
        self.middle = _units(2 * wide, config.stem_units[0])
        self.from_quarter = nn.Conv2d(config.stem[1], wide, 1)
        self.fine = _units(wide, 2)
        self.to_shape = nn.Conv2d(wide, 2 * 16, 1)
        self.local = LocalHead(config)
        self.vote = nn.Sequential(nn.LayerNorm(dec, eps=1e-6), nn.Linear(dec, dec), nn.GELU(), nn.Linear(dec, 10))
        self.sharpness = nn.Parameter(torch.tensor(math.log(TEMPERATURE)))
        with torch.no_grad():  # begins with a plane, with no motion of its own, and with what a view says by itself
            for layer in (self.to_shape, self.vote[-1]):
                for parameter in layer.parameters():
                    parameter.zero_()
            self.from_tokens.weight[:, config.enc_embed_dim :].zero_()

    def forward(self, encoded: EncodedImages, tokens: Tensor) -> tuple[ViewPrediction, Tensor]:
        """Args: tokens: (B, N, C) of the decoder.

        Returns:
            The views in their own cameras, and (B, 9) what their tokens say of their motion.
        """
        rays, half, quarter, eighth = encoded.maps
        x, (depth, conf) = self._shape(encoded, tokens)
        local = self.local(half, quarter, eighth, x, rays[:, 2])
        points, said = self._points(depth, rays, tokens)
        desc = to_descriptors(local[..., :-1])
        config = self.config
        conf, desc_conf = to_confidence(conf, config.conf_mode), to_confidence(local[..., -1], config.desc_conf_mode)
        return ViewPrediction(points, conf, desc, desc_conf), said

    def alone(self, encoded: EncodedImages) -> Tensor:
        """(B, H, W) planar depth of the views as each says it by itself."""
        tokens = encoded.tokens.new_zeros(*encoded.tokens.shape[:2], self.config.dec_embed_dim)
        _, (depth, _) = self._shape(encoded, tokens)
        return _along_rays(depth, _spread(encoded.maps[0])[2])

    def _shape(self, encoded: EncodedImages, tokens: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """Maps (B, C, H/4, W/4), and of the pixels (B, H, W) the depth in sizes of the object and the confidence."""
        _, _, quarter, eighth = encoded.maps
        both = torch.cat([encoded.tokens, tokens], -1).transpose(1, 2).unflatten(-1, encoded.grid)
        x = self.coarse(self.from_tokens(both))
        x = self.middle(_double(x) + self.from_eighth(eighth))
        x = self.fine(_double(self.narrow(x)) + self.from_quarter(quarter))
        return x, F.pixel_shuffle(self.to_shape(x), 4).unbind(1)

    def _points(self, depth: Tensor, rays: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        mask, known = rays[:, 2], rays[:, 3, 0, 0]
        share = F.avg_pool2d(mask[:, None], 16).flatten(1) + 1e-4
        share = share / share.sum(1, keepdim=True)
        said = (self.vote(tokens) * share[..., None]).sum(1)
        zoom = torch.where(known > 0.5, torch.ones_like(known), said[:, 9].exp())
        # In sizes of the object: how much relief there is beside the distance is known by how wide the object looks.
        size = _spread(rays)[2] * zoom
        z = _along_rays(depth, size)
        x, y = (rays[:, axis] * zoom[:, None, None] * z for axis in (0, 1))
        return torch.stack([x, y, z], -1), said[:, :9]

    def bring(
        self, second: ViewPrediction, first: ViewPrediction, masks: tuple[Tensor, Tensor], said: Tensor
    ) -> Tensor:
        """The second view's points (B, H, W, 3) in the first one's camera.

        The descriptors of both say how; what the second view's tokens say (B, 9) is put on top, a turn about its middle
        and a shift. masks: of second and first (B, H, W).
        """
        assert second.desc is not None and first.desc is not None
        cells = ViewCells.of(second.points, second.desc, masks[0]), ViewCells.of(first.points, first.desc, masks[1])
        own = motion_between(*cells, self.sharpness.exp()).apply(second.points)
        inside = masks[0] + 1e-6
        middle = (own * inside[..., None]).sum((1, 2)) / inside.sum((1, 2))[:, None]
        reach = middle.norm(dim=-1, keepdim=True)
        turned = torch.einsum("bij,bhwj->bhwi", _rotation(said[:, :6]), own - middle[:, None, None])
        return turned + (middle + reach * said[:, 6:9])[:, None, None]


def _along_rays(depth: Tensor, size: Tensor) -> Tensor:
    """(B, H, W) planar depth out of that in sizes (B,) of the object."""
    return (LOG_DEPTH * torch.tanh(size[:, None, None] * depth / LOG_DEPTH)).exp()


def _taught(x: Tensor, share: float) -> Tensor:
    """The same, with this share of its gradient."""
    if share == 1:
        return x
    return share * x + (1 - share) * x.detach() if share > 0 else x.detach()


def _standardised(raw: Tensor, mask: Tensor) -> Tensor:
    """Maps (B, C, H, W) less what all of the object (B, 1, H, W) has in common, each with a spread of 1 over it.
    Without this the first thing that a contrastive loss teaches is to be alike."""
    share = mask + 1e-6
    share = share / share.sum((2, 3), keepdim=True)
    centred = raw - (raw * share).sum((2, 3), keepdim=True)
    spread = (centred.square() * share).sum((2, 3), keepdim=True)
    return centred * (spread + 1e-4).rsqrt()


def _double(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _rotation(said: Tensor) -> Tensor:
    """(B, 3, 3) from six numbers, none of them none (Zhou et al., "On the Continuity of Rotation Representations in
    Neural Networks", CVPR 2019); six zeros are no rotation."""
    a = said[:, :3] + said.new_tensor([1.0, 0, 0])
    b = said[:, 3:6] + said.new_tensor([0, 1.0, 0])
    a = F.normalize(a, dim=-1)
    b = F.normalize(b - (a * b).sum(-1, keepdim=True) * a, dim=-1)
    return torch.stack([a, b, torch.linalg.cross(a, b)], -1)


class MaskedPairNetwork(PairNetwork):
    """See the module. Masks and lenses go into `encode`; without them a picture counts as all object, its middle as the
    principal point."""

    def _build(self, config: PairNetworkConfig) -> None:
        enc, dec = config.enc_embed_dim, config.dec_embed_dim
        self.stem = Stem(config.stem, enc, config.stem_units)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc, config.enc_num_heads, config.mlp_ratio) for _ in range(config.enc_depth)
        )
        self.enc_norm = nn.LayerNorm(enc, eps=1e-6)
        self.decoder_embed = nn.Linear(enc, dec)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(dec, config.dec_num_heads, config.mlp_ratio) for _ in range(config.dec_depth)
        )
        self.dec_norm = nn.LayerNorm(dec, eps=1e-6)
        self.head = RayHead(config)

    def encode(self, image: Tensor, hints: ViewHints | None = None) -> EncodedImages:
        self._check_image(image)
        hints = hints or usual_hints(image)
        self.images_encoded += len(image)
        grid = (image.shape[-2] // 16, image.shape[-1] // 16)
        rays = _ray_maps(hints, image.shape[-2], image.shape[-1], self.device)
        mask = rays[:, 2:3]
        colours = (image.to(self.device, torch.float32) - 0.5) / 0.25 * mask
        x = torch.cat([colours, mask, rays[:, :2], rays[:, 3:], _place(rays), _shares(mask)], 1)
        x = x.contiguous(memory_format=torch.channels_last)
        half, quarter, eighth, tokens = self.stem(x)
        tokens = tokens.flatten(2).transpose(1, 2)
        rotation = self._rotation(patch_positions(*grid, self.device), "enc")
        for block in self.enc_blocks:
            tokens = block(tokens, rotation)
        return EncodedImages(self.enc_norm(tokens), grid, (rays, half, quarter, eighth))

    def depth_alone(self, image: Tensor, hints: ViewHints | None = None) -> Tensor:
        """(B, H, W) planar depth of pictures (B, 3, H, W) in [0, 1], each by itself, in a unit of its own."""
        encoded = self.encode(image, hints)
        with torch.autocast(self.device.type, enabled=False):
            return self.head.alone(encoded.float())

    def decode(self, a: EncodedImages, b: EncodedImages) -> tuple[list[Tensor], list[Tensor]]:
        if len(a) != len(b):
            raise ValueError(f"pairs: {len(a)} first and {len(b)} second pictures; wanted as many of either")
        rotation_a = self._rotation(a.positions, "dec")
        if a.grid == b.grid:  # both sides in one batch
            count = len(a)
            x = self.decoder_embed(torch.cat([a.tokens, b.tokens]))
            for block in self.dec_blocks:
                x = block(x, torch.cat([x[count:], x[:count]]), rotation_a, rotation_a)
            x = self.dec_norm(x)
            return [a.tokens, x[:count]], [b.tokens, x[count:]]
        rotation_b = self._rotation(b.positions, "dec")
        x, y = self.decoder_embed(a.tokens), self.decoder_embed(b.tokens)
        for block in self.dec_blocks:
            x, y = block(x, y, rotation_a, rotation_b), block(y, x, rotation_b, rotation_a)
        return [a.tokens, self.dec_norm(x)], [b.tokens, self.dec_norm(y)]

    def _both(self, a: EncodedImages, b: EncodedImages) -> tuple[tuple[ViewPrediction, Tensor], ...]:
        """Both views in their own cameras, and what each one's tokens say of its motion to the other."""
        side_a, side_b = self.decode(a, b)
        with torch.autocast(self.device.type, enabled=False):
            if a.grid == b.grid:
                tokens = torch.cat([side_a[-1], side_b[-1]]).float()
                views, said = self.head(EncodedImages.concatenate(a, b).float(), tokens)
                return tuple((views.rows(part), said[part]) for part in (slice(0, len(a)), slice(len(a), None)))
            return self.head(a.float(), side_a[-1].float()), self.head(b.float(), side_b[-1].float())

    def _brought(
        self, view: ViewPrediction, other: ViewPrediction, of: EncodedImages, to: EncodedImages, said: Tensor
    ) -> ViewPrediction:
        """A view with its points in the other one's camera."""
        with torch.autocast(self.device.type, enabled=False):
            masks = of.maps[0][:, 2].float(), to.maps[0][:, 2].float()
            return replace(view, points=self.head.bring(view, other, masks, said))

    def _views(self, a: EncodedImages, b: EncodedImages) -> tuple[ViewPrediction, ViewPrediction]:
        (first, _), (second, said) = self._both(a, b)
        return first, self._brought(second, first, b, a, said)

    def predict_symmetric(self, a: EncodedImages, b: EncodedImages) -> tuple[PairPrediction, PairPrediction]:
        (first, said_a), (second, said_b) = self._both(a, b)
        there = pair_prediction(first, self._brought(second, first, b, a, said_b))
        return there, pair_prediction(second, self._brought(first, second, a, b, said_a))


def usual_hints(image: Tensor) -> ViewHints:
    """Of pictures (B, 3, H, W) of which nothing is known: all of them object, whole, through a usual lens."""
    batch, height, width = len(image), image.shape[-2], image.shape[-1]
    focal = torch.full((batch, 2), USUAL_FOCAL * max(height, width))
    centre = torch.tensor([[width / 2, height / 2]]).repeat(batch, 1)
    mask = torch.ones(batch, height, width, dtype=torch.bool)
    return ViewHints(mask, focal, centre, torch.zeros(batch, dtype=torch.bool))


def _ray_maps(hints: ViewHints, height: int, width: int, device: torch.device) -> Tensor:
    """(B, 4, H, W): directions along x and y, mask, and whether the lens is known."""
    if tuple(hints.mask.shape[1:]) != (height, width):
        raise ValueError(f"hints.mask: wanted (B, {height}, {width}), found {tuple(hints.mask.shape)}")
    focal, centre = (each.to(device, torch.float32) for each in (hints.focal, hints.centre))
    x = (torch.arange(width, device=device) + 0.5 - centre[:, :1]) / focal[:, :1]
    y = (torch.arange(height, device=device) + 0.5 - centre[:, 1:]) / focal[:, 1:]
    size = (len(x), height, width)
    known = hints.known.to(device, torch.float32)[:, None, None].expand(size)
    mask = hints.mask.to(device, torch.float32)
    return torch.stack([x[:, None, :].expand(size), y[:, :, None].expand(size), mask, known], 1)


def _spread(rays: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(B,) mean direction along x and y over the object, and the standard deviation of both together."""
    share = rays[:, 2] + 1e-6
    share = share / share.sum((1, 2), keepdim=True)
    x, y = ((rays[:, axis] * share).sum((1, 2)) for axis in (0, 1))
    away = (rays[:, 0] - x[:, None, None]).square() + (rays[:, 1] - y[:, None, None]).square()
    return x, y, ((away * share).sum((1, 2)) + 1e-8).sqrt()


def _place(rays: Tensor) -> Tensor:
    """(B, 2, H, W): where in the object a pixel is, from its middle, in its sizes."""
    x, y, size = _spread(rays)
    away = rays[:, :2] - torch.stack([x, y], 1)[:, :, None, None]
    return (away / size[:, None, None, None]).clamp(-3, 3)


def _shares(mask: Tensor) -> Tensor:
    """(B, 4, H, W) of a mask (B, 1, H, W): how much of the squares around each pixel is object, beside the picture
    being none of it. They tell how deep inside it is, which small filters are long in learning."""
    height, width = mask.shape[-2:]
    quarter = F.avg_pool2d(mask, 4)
    out = []
    for share in SHARES:
        side = 2 * round(share * max(height, width) / 8) + 1
        out.append(F.avg_pool2d(quarter, side, 1, side // 2))
    return F.interpolate(torch.cat(out, 1), size=(height, width), mode="bilinear", align_corners=False)


def make_network(config: PairNetworkConfig) -> PairNetwork:
    """The network that a configuration is of."""
    return MaskedPairNetwork(config) if config.masked else PairNetwork(config)
