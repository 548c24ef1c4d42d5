"""Change of sampling rate without scipy or torchaudio."""

from math import gcd

import numpy as np
import torch


def resample(wave: np.ndarray, have: int, want: int, *, zeros: int = 16) -> np.ndarray:
    """`wave` (S,) at `have` samples per second, at `want`: (ceil(S * want / have),).

    Band-limited interpolation by a Hann-windowed sinc, evaluated once per phase (polyphase): with the rates
    in lowest terms up / down, `up` filters slide over the wave in steps of `down` samples.

    Args:
        zeros: zero crossings of the sinc on each side; more is sharper and slower.
    """
    if have == want:
        return wave
    g = gcd(have, want)
    down, up = have // g, want // g
    cutoff = 0.95 * min(down, up)  # leaves room for the filter to fall before the lower of the two limits
    reach = int(np.ceil(zeros * down / cutoff))
    taps = np.arange(-reach, reach + down)[None] / down
    t = ((taps - np.arange(up)[:, None] / up) * cutoff).clip(-zeros, zeros)  # (up, taps)
    filters = np.sinc(t) * np.cos(t * np.pi / zeros / 2) ** 2 * cutoff / down
    padded = np.pad(wave.astype(np.float32), (reach, reach + down))
    with torch.no_grad():
        out = torch.nn.functional.conv1d(
            torch.from_numpy(padded)[None, None],
            torch.from_numpy(filters.astype(np.float32))[:, None],
            stride=down,
        )  # (1, up, steps)
    return out[0].T.reshape(-1)[: -(-len(wave) * up // down)].numpy()
