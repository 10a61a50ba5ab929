"""The transformer blocks of a pair network: patch embedding, 2D rotary positions, self- and cross-attention.

Modules are named so that their state dicts have the keys of the published checkpoints. Tokens are (B, N, C): one for
each patch of a picture, rows first. Pre-norm blocks as in ViT (Dosovitskiy et al. 2021); rotary positions as in
RoFormer (Su et al. 2021), one half of each head turned by the row and the other by the column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

NORM_EPS = 1e-6


@dataclass(frozen=True)
class Rotation:
    """Cosines and sines of the angles by which queries and keys are turned: (N, 2, D), float32.

    The axes are token, (row, column), frequency; a head has 4 · D numbers.
    """

    cos: Tensor
    sin: Tensor


def patch_positions(rows: int, columns: int, device: torch.device | str = "cpu") -> Tensor:
    """(row, column) of each patch of a picture, row by row: (rows · columns, 2) int64."""
    y, x = torch.meshgrid(torch.arange(rows, device=device), torch.arange(columns, device=device), indexing="ij")
    return torch.stack([y, x], dim=-1).reshape(-1, 2)


def rotation_of(positions: Tensor, head_dim: int, base: float) -> Rotation:
    """The rotation for tokens at `positions` (N, 2); angle k of an axis is p · base^(-2k / (head_dim / 2))."""
    per_axis = head_dim // 2
    exponents = torch.arange(0, per_axis, 2, device=positions.device, dtype=torch.float32) / per_axis
    angles = positions[..., None].float() * base**-exponents
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn (B, heads, N, head_dim) queries or keys. Their products then depend on differences of positions only."""
    # A head is (axis, half, frequency): number k of the first half is paired with number k of the second.
    a, b = x.unflatten(-1, (2, 2, -1)).unbind(-2)
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-2).flatten(-3)


class PatchEmbed(nn.Module):
    """Pictures (B, 3, H, W) in [-1, 1] → tokens (B, H/p · W/p, C)."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class Mlp(nn.Module):
    """Two linear layers with GELU between them."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


def _split_heads(x: Tensor, heads: int) -> Tensor:
    """(B, N, C) → (B, heads, N, C / heads)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention over (B, heads, N, D), heads joined again: (B, N, C)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class SelfAttention(nn.Module):
    """Tokens of one picture among themselves."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        q, k, v = (_split_heads(part, self.heads) for part in self.qkv(x).chunk(3, dim=-1))
        return self.proj(_attend(rotate(q, rotation), rotate(k, rotation), v))


class CrossAttention(nn.Module):
    """Tokens of one picture ask those of the other, the memory."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.projq = nn.Linear(dim, dim)
        self.projk = nn.Linear(dim, dim)
        self.projv = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, memory: Tensor, rotation: Rotation, memory_rotation: Rotation) -> Tensor:
        q = rotate(_split_heads(self.projq(x), self.heads), rotation)
        k = rotate(_split_heads(self.projk(memory), self.heads), memory_rotation)
        return self.proj(_attend(q, k, _split_heads(self.projv(memory), self.heads)))


class EncoderBlock(nn.Module):
    """x += attention(norm1 x); x += mlp(norm2 x)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), dim)

    def forward(self, x: Tensor, rotation: Rotation) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        return x + self.mlp(self.norm2(x))


class DecoderBlock(nn.Module):
    """x += attention(norm1 x); x += cross-attention(norm2 x, norm_y memory); x += mlp(norm3 x)."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = SelfAttention(dim, heads)
        self.cross_attn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.norm3 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, round(dim * mlp_ratio), dim)
        self.norm_y = nn.LayerNorm(dim, eps=NORM_EPS)

    def forward(self, x: Tensor, memory: Tensor, rotation: Rotation, memory_rotation: Rotation) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        x = x + self.cross_attn(self.norm2(x), self.norm_y(memory), rotation, memory_rotation)
        return x + self.mlp(self.norm3(x))
