"""The table of tools/bench/quality.yaml: settings, recipes and the order in which they are measured."""

from dataclasses import dataclass, field
from pathlib import Path

import yaml

TABLE = Path(__file__).resolve().parent / "quality.yaml"
SYSTEMS = ("ours", "gptqmodel", "llmcompressor", "onecomp")


class TableError(Exception):
    """quality.yaml contradicts itself; the message says where."""


@dataclass(frozen=True)
class Setting:
    name: str
    label: str
    bits: int
    group_size: int  # -1: one group a row


@dataclass(frozen=True)
class Recipe:
    name: str
    system: str
    label: str
    options: dict = field(default_factory=dict)  # of a peer, in its own names
    set: dict = field(default_factory=dict)  # of our job: key → value
    settings: tuple = ()  # names; empty: all
    bundle: bool = False  # one of ours that is compared with the best peer


@dataclass(frozen=True)
class Pair:
    """One measurement."""

    recipe: Recipe
    setting: Setting

    @property
    def name(self):
        return f"{self.recipe.name}@{self.setting.name}"


class Table:
    def __init__(self, path=TABLE):
        raw = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        self.settings = {name: Setting(name, **fields) for name, fields in raw["settings"].items()}
        self.recipes = {name: Recipe(name, **fields) for name, fields in raw["recipes"].items()}
        self.adopt = raw.get("adopt", {})
        self.first = raw.get("first", [])
        for recipe in self.recipes.values():
            if recipe.system not in SYSTEMS:
                raise TableError(f"{recipe.name}: no system {recipe.system}; there are {', '.join(SYSTEMS)}")
            self.check(self.settings, recipe.settings, "setting")
        for recipes, settings in self.first:
            self.check(self.recipes, recipes, "recipe")
            self.check(self.settings, settings, "setting")

    @staticmethod
    def check(known, names, kind):
        for name in names:
            if name not in known:
                raise TableError(f"there is no {kind} {name}; there are {', '.join(known)}")

    def pairs(self):
        """Every measurement, those that go first first."""
        wanted = [(recipe, setting) for recipes, settings in self.first for setting in settings for recipe in recipes]
        wanted += [(recipe, setting) for setting in self.settings for recipe in self.recipes]
        return [Pair(self.recipes[recipe], self.settings[setting]) for recipe, setting in dict.fromkeys(wanted)
                if setting in (self.recipes[recipe].settings or self.settings)]

    def select(self, only, settings):
        """The pairs whose recipe or system is in `only` and whose setting is in `settings`; empty: all."""
        self.check({**self.recipes, **dict.fromkeys(SYSTEMS)}, only, "recipe or system")
        self.check(self.settings, settings, "setting")
        pairs = [pair for pair in self.pairs()
                 if (not only or pair.recipe.name in only or pair.recipe.system in only)
                 and (not settings or pair.setting.name in settings)]
        if not pairs:
            raise TableError(f"{', '.join(only)} is not measured at {', '.join(settings)}")
        return pairs
