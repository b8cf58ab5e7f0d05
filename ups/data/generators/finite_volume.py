"""The finite-volume scheme of both generators: u_t + (convex u^2/2 + speed u)_x = viscosity u_xx, periodic.

Second order in space and time: monotonised-central limiter (van Leer 1977), Roe's upwind flux (1981) with the
entropy fix of Harten and Hyman (1983), which for a quadratic flux is Godunov's, central diffusion, midpoint
predictor-corrector. Without the fix a jump from -1 to 1 stands still and feeds energy into the field.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

# everything but `reassoc`: sums keep their order, so that a trajectory is the same number on every run
_FAST = {"nnan", "ninf", "nsz", "arcp", "contract"}
_GHOSTS = 2
_FAR = 1e30


@njit(nogil=True, cache=True, fastmath=_FAST)
def _face_fluxes(u, half_slope, flux, cells, convex, speed, conductance):
    """flux[i] through the face right of u[i]; u carries two ghost cells on either side, filled here."""
    for ghost in range(_GHOSTS):
        u[ghost] = u[cells + ghost]
        u[cells + _GHOSTS + ghost] = u[_GHOSTS + ghost]
    for i in range(1, cells + 3):
        behind = u[i] - u[i - 1]
        ahead = u[i + 1] - u[i]
        centre = 0.25 * (behind + ahead)
        # half of minmod(2 behind, 2 ahead, centre) without a branch
        half_slope[i] = max(0.0, min(min(behind, ahead), centre)) + min(0.0, max(max(behind, ahead), centre))
    # where f' is zero; without convexity everything flows to one side
    sonic = -speed / convex if convex > 0.0 else -math.copysign(_FAR, speed)
    for i in range(1, cells + 2):
        left = u[i] + half_slope[i]
        right = u[i + 1] - half_slope[i + 1]
        upstream, downstream = max(left, sonic), min(right, sonic)
        upwind = max((0.5 * convex * upstream + speed) * upstream, (0.5 * convex * downstream + speed) * downstream)
        flux[i] = upwind - conductance * (u[i + 1] - u[i])


@njit(nogil=True, cache=True, fastmath=_FAST)
def _substeps(u, middle, half_slope, flux, cells, dx, dt, steps, convex, speed, viscosity):
    ratio = dt / dx
    conductance = viscosity / dx
    for _ in range(steps):
        _face_fluxes(u, half_slope, flux, cells, convex, speed, conductance)
        for i in range(_GHOSTS, cells + _GHOSTS):
            middle[i] = u[i] - 0.5 * ratio * (flux[i] - flux[i - 1])
        _face_fluxes(middle, half_slope, flux, cells, convex, speed, conductance)
        for i in range(_GHOSTS, cells + _GHOSTS):
            u[i] = u[i] - ratio * (flux[i] - flux[i - 1])


@njit(nogil=True, cache=True)
def evolve(initial_X, frames, dx, dt, cfl, convex, speed, viscosity, out_TX):
    """Fill `out_TX` with `frames` frames of one trajectory, the first of them `initial_X`; releases the GIL.

    The step is the largest equal division of `dt` below min(cfl dx/max|f'|, cfl dx^2/(2 viscosity)).
    """
    cells = initial_X.shape[0]
    u = np.zeros(cells + 2 * _GHOSTS)
    middle = np.zeros_like(u)
    half_slope = np.zeros_like(u)
    flux = np.zeros_like(u)
    u[_GHOSTS : cells + _GHOSTS] = initial_X
    out_TX[0] = initial_X
    for frame in range(1, frames):
        fastest = 0.0
        for i in range(_GHOSTS, cells + _GHOSTS):
            fastest = max(fastest, abs(convex * u[i] + speed))
        # the equations have a maximum principle, so the speed of a frame's start holds for all of it
        rate = max(fastest / (cfl * dx), 2.0 * viscosity / (cfl * dx * dx))
        steps = max(1, math.ceil(dt * rate * (1.0 - 1e-12)))
        _substeps(u, middle, half_slope, flux, cells, dx, dt / steps, steps, convex, speed, viscosity)
        out_TX[frame] = u[_GHOSTS : cells + _GHOSTS]
