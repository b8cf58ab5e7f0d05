"""Layers shared by encoder, operator and decoder. B batch, N tokens, H hidden width, F features of a condition."""

from __future__ import annotations

import functools
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Mixer = Literal["attention", "conv", "spectral", "hybrid"]


def rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x scaled to unit root mean square over its last axis; no parameters, so no loss can lower itself by scale."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)


def periodic_features(position: Tensor, frequencies: int) -> Tensor:
    """sin and cos of 2 pi n position for n = 1..frequencies: (...) -> (..., 2 frequencies).

    `position` is a share of the period, so the features wrap exactly.
    """
    n = torch.arange(1, frequencies + 1, device=position.device, dtype=position.dtype)
    angle = 2 * math.pi * position[..., None] * n
    return torch.cat([angle.sin(), angle.cos()], dim=-1)


def rotate(x_BhNd: Tensor, position_N: Tensor) -> Tensor:
    """Rotary position with integer frequencies (RoFormer, arXiv:2104.09864, made periodic).

    The scalar product of two rotated vectors depends on the periodic distance of their positions alone.
    """
    half = x_BhNd.shape[-1] // 2
    # spread over 1..16 waves a period: fine enough to tell neighbouring tokens, coarse enough to tell far ones
    waves = torch.linspace(1, 16, half, device=x_BhNd.device).round()
    angle_Nd = 2 * math.pi * position_N[:, None].float() * waves
    cos, sin = angle_Nd.cos().to(x_BhNd.dtype), angle_Nd.sin().to(x_BhNd.dtype)
    a, b = x_BhNd[..., :half], x_BhNd[..., half : 2 * half]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x_BhNd[..., 2 * half :]], dim=-1)


def centres(count: int, device: torch.device) -> Tensor:
    """Centres of `count` equal parts of the period, as shares of it."""
    return (torch.arange(count, device=device) + 0.5) / count


class Attention(nn.Module):
    """Multi-head attention with rotary periodic positions and QK-norm; queries may be other tokens than keys."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % num_heads:
            raise ValueError(f"width must be divisible by heads, got {width} and {num_heads}")
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(self, query_BNH: Tensor, context_BMH: Tensor) -> Tensor:
        q = self._split(self.query(query_BNH))
        k, v = (self._split(part) for part in self.key_value(context_BMH).chunk(2, dim=-1))
        q = rotate(rms_norm(q), centres(q.shape[2], q.device))
        k = rotate(rms_norm(k), centres(k.shape[2], k.device))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x_BNH: Tensor) -> Tensor:
        return x_BNH.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


class SelfAttention(Attention):
    def forward(self, x_BNH: Tensor, context_BMH: Tensor | None = None) -> Tensor:
        return super().forward(x_BNH, x_BNH if context_BMH is None else context_BMH)


class CircularConv(nn.Module):
    """Convolution along the tokens of a periodic axis, (B, N, H) -> (B, N, out); depthwise when `groups` is H."""

    def __init__(self, width: int, out: int, kernel: int, groups: int = 1) -> None:
        super().__init__()
        self.kernel = kernel
        self.conv = nn.Conv1d(width, out, kernel, groups=groups)

    def forward(self, x_BNH: Tensor) -> Tensor:
        side = self.kernel // 2
        # more than one period may be needed when there are few tokens
        repeats = math.ceil(side / x_BNH.shape[1])
        wrapped = torch.cat([x_BNH] * (2 * repeats + 1), dim=1) if repeats > 1 else x_BNH
        if repeats == 1:
            wrapped = torch.cat([x_BNH[:, x_BNH.shape[1] - side :], x_BNH, x_BNH[:, :side]], dim=1)
        else:
            start = repeats * x_BNH.shape[1] - side
            wrapped = wrapped[:, start : start + x_BNH.shape[1] + 2 * side]
        return self.conv(wrapped.transpose(1, 2)).transpose(1, 2)


class SpectralProduct(nn.Module):
    """Product with learned complex matrices on the lowest Fourier modes of the token axis (FNO, arXiv:2010.08895).

    The transforms are products with the few rows of the DFT matrix that are kept: for the modes and tokens used
    here that is quicker than an FFT of all modes, and it runs in any precision.
    """

    def __init__(self, width: int, modes: int, groups: int = 1) -> None:
        super().__init__()
        if width % groups:
            raise ValueError(f"width must be divisible by groups, got {width} and {groups}")
        self.modes = modes
        self.groups = groups
        part = width // groups
        self.weight = nn.Parameter(torch.randn(modes, 2, groups, part, part) / part / math.sqrt(2))

    def forward(self, x_BNH: Tensor) -> Tensor:
        batch, tokens, width = x_BNH.shape
        modes = min(self.modes, tokens // 2 + 1)
        forth_2MN, back_N2M = _real_fourier(tokens, modes, x_BNH.device, x_BNH.dtype)
        spectrum = (forth_2MN @ x_BNH).view(batch, 2, modes, self.groups, -1)
        # rows (re, im) of each mode and group, times [[re, im], [-im, re]] of its weight
        rows = spectrum.permute(2, 3, 0, 1, 4).reshape(modes * self.groups, batch, -1)
        real, imaginary = self.weight[:modes].to(x_BNH.dtype).unbind(1)
        matrix = torch.cat([torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)], -2).flatten(0, 1)
        mixed = torch.bmm(rows, matrix).view(modes, self.groups, batch, 2, -1)
        return back_N2M @ mixed.permute(2, 3, 0, 1, 4).reshape(batch, 2 * modes, width)


@functools.lru_cache(maxsize=64)
def _real_fourier(tokens: int, modes: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Unitary real DFT of the lowest modes (2 M, N) and its inverse (N, 2 M): cos rows, then -sin rows."""
    angle = 2 * math.pi / tokens * torch.outer(torch.arange(modes).double(), torch.arange(tokens).double())
    forth = torch.stack([angle.cos(), -angle.sin()]) / math.sqrt(tokens)
    # every mode but 0 and N/2 stands for itself and its conjugate
    twice = torch.full((modes, 1), 2.0, dtype=torch.float64)
    twice[0] = 1
    if 2 * (modes - 1) == tokens:
        twice[-1] = 1
    back = (forth * twice).flatten(0, 1).T.contiguous()
    return forth.flatten(0, 1).to(device, dtype), back.to(device, dtype)


class Hybrid(nn.Module):
    """Attention, depthwise convolution and low-mode spectral product side by side, summed."""

    def __init__(self, width: int, num_heads: int, kernel: int, modes: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [
                SelfAttention(width, num_heads),
                CircularConv(width, width, kernel, groups=width),
                SpectralProduct(width, modes, groups=num_heads),
            ]
        )

    def forward(self, x_BNH: Tensor) -> Tensor:
        return sum((part(x_BNH) for part in self.parts), start=torch.zeros_like(x_BNH))


def build_mixer(kind: Mixer, width: int, num_heads: int, kernel: int, modes: int) -> nn.Module:
    """What carries information between tokens: (B, N, H) -> (B, N, H)."""
    if kind == "attention":
        return SelfAttention(width, num_heads)
    if kind == "conv":
        return CircularConv(width, width, kernel)
    if kind == "spectral":
        return SpectralProduct(width, modes)
    return Hybrid(width, num_heads, kernel, modes)


class Mlp(nn.Sequential):
    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, out))


class ConditionedBlock(nn.Module):
    """Pre-norm block with AdaLN-zero conditioning (DiT, arXiv:2212.09748): the identity until it is trained."""

    def __init__(self, width: int, condition: int, mixer: nn.Module, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.mixer = mixer
        self.mlp = Mlp(width, int(mlp_ratio * width), width)
        self.modulation = nn.Linear(condition, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BNH: Tensor, condition_BF: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(condition_BF)[:, None].chunk(6, dim=-1)
        x = x_BNH
        x = x + gate1 * self.mixer(rms_norm(x) * (1 + scale1) + shift1)
        return x + gate2 * self.mlp(rms_norm(x) * (1 + scale2) + shift2)


class FusedBlock(nn.Module):
    """Mixing and MLP in one residual: x + gate * out(gelu(mixer(y) + skip(y))), y the modulated norm of x.

    Half the work of a `ConditionedBlock`; the layout of a Fourier layer. Also the identity until it is trained.
    """

    def __init__(self, width: int, condition: int, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer
        self.skip = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.modulation = nn.Linear(condition, 3 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BNH: Tensor, condition_BF: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(condition_BF)[:, None].chunk(3, dim=-1)
        y = rms_norm(x_BNH) * (1 + scale) + shift
        return x_BNH + gate * self.out(F.gelu(self.mixer(y) + self.skip(y)))


class ResidualConv(nn.Module):
    """x + linear(gelu(conv(x))) along a periodic axis."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.conv = CircularConv(width, width, kernel)
        self.out = nn.Linear(width, width)

    def forward(self, x_BNH: Tensor) -> Tensor:
        return x_BNH + self.out(F.gelu(self.conv(x_BNH)))


class ConditionEmbedding(nn.Module):
    """The few numbers that a step depends on (log amplitude, parameters, dt), embedded: (B, F) -> (B, out)."""

    def __init__(self, features: int, out: int) -> None:
        super().__init__()
        self.mlp = Mlp(features, out, out)

    def forward(self, features_BF: Tensor) -> Tensor:
        return F.silu(self.mlp(features_BF))
