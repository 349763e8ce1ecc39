"""Which versions of another trainer a plug-in was written for."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet

# 1.15 fails on a CPU without Triton, in plain GRPOTrainer too. pyproject.toml repeats this range.
TRL = SpecifierSet(">=1.14,<1.18,!=1.15.*")


def require(package: str, supported: SpecifierSet) -> None:
    """ImportError where the package is missing or of a version that the plug-in does not know."""
    try:
        installed = version(package)
    except PackageNotFoundError:
        installed = None
    require_version(package, installed, supported)


def require_version(package: str, installed: str | None, supported: SpecifierSet) -> None:
    """As `require`, of the version named; None = not installed."""
    remedy = f"pip install 'genac[{package}]'"
    if installed is None:
        raise ImportError(
            f"genac.integrations.{package} needs {package}, which is not installed: {remedy}"
        )
    if not supported.contains(installed, prereleases=True):
        raise ImportError(
            f"{package} {installed} is installed, but genac.integrations.{package} supports "
            f"{package}{supported}: {remedy}"
        )
