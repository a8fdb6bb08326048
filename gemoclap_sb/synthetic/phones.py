"""What the phones of American English, in ARPAbet, ask of a source-filter synthesiser.

Vowel formants are the men's means of Peterson and Barney (JASA 24, 1952). Consonant loci,
noise spectra and durations follow Klatt (JASA 59, 1976; JASA 67, 1980), rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

Formants = tuple[float, float, float]

# Of a man, in Hz. Diphthongs are two targets.
VOWELS: dict[str, tuple[Formants, ...]] = {
    "IY": ((270, 2290, 3010),),
    "IH": ((390, 1990, 2550),),
    "EH": ((530, 1840, 2480),),
    "AE": ((660, 1720, 2410),),
    "AA": ((730, 1090, 2440),),
    "AO": ((570, 840, 2410),),
    "UH": ((440, 1020, 2240),),
    "UW": ((300, 870, 2240),),
    "AH": ((640, 1190, 2390),),
    "AX": ((500, 1450, 2450),),
    "ER": ((490, 1350, 1690),),
    "EY": ((500, 1850, 2500), (330, 2150, 2800)),
    "AY": ((730, 1150, 2440), (400, 1950, 2550)),
    "OW": ((540, 950, 2400), (370, 850, 2250)),
    "AW": ((720, 1200, 2440), (430, 950, 2300)),
}


@dataclass(frozen=True)
class Segment:
    """Constant targets: formants in Hz, levels in dB re an accented vowel's voice."""

    formants: Formants
    milliseconds: float  # at an average rate
    voice: float = -90.0
    aspiration: float = -90.0
    frication: float = -90.0
    noise: tuple[float, float] = (3000.0, 1500.0)  # frication's centre and deviation in Hz


def _stop(
    locus: Formants, burst: float, noise: tuple[float, float], voiced: bool = False
) -> tuple[Segment, ...]:
    """Give a plosive: closure (with a voice bar if voiced), burst, and aspiration."""
    release = Segment(locus, 10, aspiration=-24.0, frication=burst, noise=noise)
    if voiced:
        return Segment(locus, 50, voice=-22.0), release
    after = Segment(locus, 28, aspiration=-14.0, frication=burst - 12.0, noise=noise)
    return Segment(locus, 60), release, after


LABIAL, ALVEOLAR, VELAR = (280, 900, 2200), (280, 1750, 2650), (280, 2000, 2350)
DENTAL, PALATAL = (300, 1350, 2500), (300, 1950, 2550)
CONSONANTS: dict[str, tuple[Segment, ...]] = {
    "P": _stop(LABIAL, -15, (1000, 900)),
    "T": _stop(ALVEOLAR, -9, (4800, 1500)),
    "K": _stop(VELAR, -10, (2300, 700)),
    "B": _stop(LABIAL, -18, (900, 800), voiced=True),
    "D": _stop(ALVEOLAR, -13, (4300, 1500), voiced=True),
    "G": _stop(VELAR, -14, (2100, 700), voiced=True),
    "CH": (Segment(ALVEOLAR, 50), Segment(PALATAL, 95, frication=-9, noise=(3600, 1100))),
    "F": (Segment(LABIAL, 95, frication=-19, noise=(4500, 3000)),),
    "TH": (Segment(DENTAL, 95, frication=-20, noise=(5500, 2500)),),
    "S": (Segment(ALVEOLAR, 95, frication=-7, noise=(6000, 1200)),),
    "SH": (Segment(PALATAL, 95, frication=-7, noise=(3400, 1000)),),
    "V": (Segment(LABIAL, 70, voice=-11, frication=-26, noise=(4000, 3000)),),
    "DH": (Segment(DENTAL, 70, voice=-11, frication=-29, noise=(5000, 2500)),),
    "Z": (Segment(ALVEOLAR, 70, voice=-11, frication=-14, noise=(5800, 1200)),),
    "HH": (Segment((500, 1500, 2500), 60, aspiration=-10),),
    "M": (Segment((260, 1050, 2200), 70, voice=-7),),
    "N": (Segment((260, 1600, 2500), 65, voice=-7),),
    "NG": (Segment((260, 2050, 2500), 75, voice=-8),),
    "L": (Segment((360, 1080, 2700), 65, voice=-4),),
    "R": (Segment((350, 1150, 1550), 65, voice=-4),),
    "W": (Segment((300, 700, 2200), 65, voice=-5),),
    "Y": (Segment((270, 2200, 3000), 55, voice=-5),),
}
PAUSE = Segment((500, 1500, 2500), 130)
