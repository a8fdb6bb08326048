"""What the phones of American English ask of a source-filter synthesiser.

Formant frequencies of vowels are the men's means of Peterson and Barney ("Control
methods used in a study of the vowels", JASA 24, 1952); consonant loci, noise spectra and
durations follow Klatt ("Software for a cascade/parallel formant synthesizer", JASA 67,
1980; "Linguistic uses of segmental duration in English", JASA 59, 1976), rounded.
Symbols are ARPAbet.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONSONANTS", "PAUSE", "VOWELS", "Segment"]

# Vowels, a man's: first three formants in Hz. Diphthongs are two targets.
VOWELS: dict[str, tuple[tuple[float, float, float], ...]] = {
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
    """A stretch of speech with constant targets.

    Attributes
    ----------
    formants : tuple of float
        First three formants in Hz, of a man's vocal tract.
    milliseconds : float
        Length at an average speaking rate.
    voice, aspiration, frication : float
        Levels of the three sources in dB relative to the voice of an accented vowel.
    noise_centre, noise_width : float
        Centre and standard deviation of the frication's spectral hump in Hz.
    """

    formants: tuple[float, float, float]
    milliseconds: float
    voice: float = -90.0
    aspiration: float = -90.0
    frication: float = -90.0
    noise_centre: float = 3000.0
    noise_width: float = 1500.0


def _stop(
    locus: tuple[float, float, float], centre: float, width: float, burst: float, voiced: bool
) -> tuple[Segment, ...]:
    """Give a plosive: closure (with a voice bar if voiced), burst, and aspiration."""
    closure = Segment(locus, 50 if voiced else 60, voice=-22.0 if voiced else -90.0)
    release = Segment(
        locus, 10, frication=burst, noise_centre=centre, noise_width=width, aspiration=-24.0
    )
    after = (
        () if voiced else (Segment(locus, 28, aspiration=-14.0, frication=burst - 12.0,
                                    noise_centre=centre, noise_width=width),)
    )  # fmt: skip
    return (closure, release, *after)


def _fricative(
    locus: tuple[float, float, float], centre: float, width: float, level: float, voiced: bool
) -> tuple[Segment, ...]:
    """Give a fricative; a voiced one is shorter, with weaker noise and voice below it."""
    return (
        Segment(
            locus,
            70 if voiced else 95,
            voice=-11.0 if voiced else -90.0,
            frication=level - (5.0 if voiced else 0.0),
            noise_centre=centre,
            noise_width=width,
        ),
    )


LABIAL, ALVEOLAR, VELAR = (280, 900, 2200), (280, 1750, 2650), (280, 2000, 2350)
DENTAL, PALATAL = (300, 1350, 2500), (300, 1950, 2550)
CONSONANTS: dict[str, tuple[Segment, ...]] = {
    "P": _stop(LABIAL, 1000, 900, -15, False),
    "B": _stop(LABIAL, 900, 800, -18, True),
    "T": _stop(ALVEOLAR, 4800, 1500, -9, False),
    "D": _stop(ALVEOLAR, 4300, 1500, -13, True),
    "K": _stop(VELAR, 2300, 700, -10, False),
    "G": _stop(VELAR, 2100, 700, -14, True),
    "CH": (
        Segment(ALVEOLAR, 50),
        *_fricative(PALATAL, 3600, 1100, -9, False),
    ),
    "F": _fricative(LABIAL, 4500, 3000, -19, False),
    "V": _fricative(LABIAL, 4000, 3000, -21, True),
    "TH": _fricative(DENTAL, 5500, 2500, -20, False),
    "DH": _fricative(DENTAL, 5000, 2500, -24, True),
    "S": _fricative(ALVEOLAR, 6000, 1200, -7, False),
    "Z": _fricative(ALVEOLAR, 5800, 1200, -9, True),
    "SH": _fricative(PALATAL, 3400, 1000, -7, False),
    "HH": (Segment((500, 1500, 2500), 60, aspiration=-10.0),),
    "M": (Segment((260, 1050, 2200), 70, voice=-7.0),),
    "N": (Segment((260, 1600, 2500), 65, voice=-7.0),),
    "NG": (Segment((260, 2050, 2500), 75, voice=-8.0),),
    "L": (Segment((360, 1080, 2700), 65, voice=-4.0),),
    "R": (Segment((350, 1150, 1550), 65, voice=-4.0),),
    "W": (Segment((300, 700, 2200), 65, voice=-5.0),),
    "Y": (Segment((270, 2200, 3000), 55, voice=-5.0),),
}
PAUSE = Segment((500, 1500, 2500), 130)
