"""Package gemoclap_sb: contrastive language-audio models of emotional speech for SpeechBrain."""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
RAY = ["ray[data]>=2.48", "pyarrow>=17"]
TEST = [
    "pytest>=8.0",
    "pytest-xdist>=3.5",
    "hypothesis>=6.100",
    # Who reads what `gemoclap embed` writes.
    "duckdb>=1.1",
    "datasets>=3.0",
    *RAY,
]

setup(
    name="gemoclap_sb",
    version="0.1.0",
    description="GEmo-CLAP for SpeechBrain: contrastive language-audio emotion recognition",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    # The second is that of the weights in gemoclap_sb/inference/default_model alone.
    license="Apache-2.0 AND CC-BY-NC-SA-4.0",
    license_files=["LICENSE", "gemoclap_sb/inference/default_model/LICENSE"],
    packages=find_packages(include=["gemoclap_sb", "gemoclap_sb.*"]),
    package_data={
        "gemoclap_sb": ["py.typed"],
        "gemoclap_sb.export": ["templates/*"],
        "gemoclap_sb.inference": ["default_model/*"],
    },
    entry_points={"console_scripts": ["gemoclap = gemoclap_sb.cli.parser:main"]},
    python_requires=">=3.10,<3.14",
    install_requires=[
        # torchaudio 2.11.0 is the last release, and it loads beside this torch only.
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "speechbrain>=1.1.2,<1.2",
        "transformers>=5.0,<6",
        "hyperpyyaml>=1.2.3,<2",
        "pyyaml>=6.0",
        "ruamel.yaml>=0.17.28",
        # From 1.9 on its strict dataclasses tell true from 1.
        "huggingface_hub>=1.9",
        "filelock>=3.10",
        "safetensors>=0.4.3",
        "sentencepiece>=0.2.0",
        "soundfile>=0.12.1",
        "numpy>=1.26",
        "scipy>=1.11",
        "pandas>=2.1",
        "scikit-learn>=1.4",
        "threadpoolctl>=3.1",
        "matplotlib>=3.8",
        "tqdm>=4.66",
    ],
    extras_require={
        "parquet": ["pyarrow>=15"],
        "ray": RAY,
        "test": TEST,
        "dev": [*TEST, "ruff>=0.6", "pre-commit>=3.7", "build>=1.2"],
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Multimedia :: Sound/Audio :: Speech",
    ],
)
