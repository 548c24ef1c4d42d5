"""Log-mel clips as VALOR's audio encoder reads them, by transformers' numpy spectrogram (Kaldi's fbank, no
torchaudio).

waveform ─ 22,050 Hz ─ Hann windows of 25 ms every 10 ms ─ 64 Kaldi mel bands, log ─ zeros to whole clips
         ─ (x + 4.2677393) / (2 · 4.5689974) ─► clips of 64 bands x 512 steps (5.1 s)
"""

import numpy as np
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

RATE = 22050
MEAN, STD = -4.2677393, 4.5689974  # of log-mel values on AudioSet
WINDOW, HOP = 0.025, 0.010  # seconds
FLOOR = 1.192092955078125e-07  # float32 epsilon, Kaldi's floor before the logarithm


def log_mel(wave: np.ndarray, bands: int = 64, rate: int = RATE) -> np.ndarray:
    """Log-mel energies (bands, steps) of a mono waveform (S,) in [-1, 1], padded to at least one window."""
    length, hop = int(rate * WINDOW), int(rate * HOP)
    fft = 1 << (length - 1).bit_length()
    filters = mel_filter_bank(
        num_frequency_bins=fft // 2 + 1,
        num_mel_filters=bands,
        min_frequency=20,
        max_frequency=rate / 2,
        sampling_rate=rate,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return spectrogram(
        np.pad(wave, (0, max(length - len(wave), 0))).astype(np.float32),
        window_function(length, "hann", periodic=False),
        frame_length=length,
        hop_length=hop,
        fft_length=fft,
        power=2.0,
        center=False,
        preemphasis=0.97,
        mel_filters=filters,
        log_mel="log",
        mel_floor=FLOOR,
        remove_dc_offset=True,
    )


def audio_clips(wave: np.ndarray, bands: int = 64, steps: int = 512, rate: int = RATE) -> np.ndarray:
    """The whole sound as normalised clips (clips, bands, steps); zeros fill the last one before norming."""
    mel = log_mel(wave, bands, rate)
    mel = np.pad(mel, ((0, 0), (0, -mel.shape[1] % steps)))
    mel = (mel - MEAN) / (2 * STD)
    return mel.reshape(bands, -1, steps).transpose(1, 0, 2).astype(np.float32)
