"""A site's own plug-ins: the folder ``plugins`` beside its jobmill.yaml."""

from __future__ import annotations

from pathlib import Path

from jobmill.rules.rule import load_site_rules
from jobmill.systems.registry import load_site_systems


def load_site_plugins(configuration: Path | None) -> None:
    """Import ``plugins/systems`` and ``plugins/rules`` beside the configuration file (None: the current folder)."""
    folder = (configuration.parent if configuration else Path()) / "plugins"
    load_site_systems(folder / "systems")
    load_site_rules(folder / "rules")
