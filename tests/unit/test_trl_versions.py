"""Which TRL the plug-in accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from genac.integrations.versions import TRL, require_version

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("installed", ["1.14.0", "1.14.2", "1.16.0", "1.17.3"])
def test_versions_in_the_range_are_accepted(installed: str) -> None:
    require_version("trl", installed, TRL)


@pytest.mark.parametrize("installed", ["1.13.0", "1.15.0", "1.18.0", "2.0.0"])
def test_other_versions_are_named_with_the_range(installed: str) -> None:
    with pytest.raises(ImportError, match=rf"trl {installed} is installed.*supports trl.*<1\.18"):
        require_version("trl", installed, TRL)


def test_a_missing_trl_is_named_with_the_extra() -> None:
    with pytest.raises(ImportError, match=r"pip install 'genac\[trl\]'"):
        require_version("trl", None, TRL)


def test_the_extra_has_the_same_range() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name in ("trl", "dev"):
        (trl,) = [r for r in map(Requirement, extras[name]) if r.name == "trl"]
        assert trl.specifier == TRL
