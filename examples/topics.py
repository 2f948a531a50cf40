"""The demo grammar: short English documents on eight topics."""

from __future__ import annotations

from grammar import Grammar
from notes import GARDEN, POSTCARD, RECIPE, STORY
from notices import LOST, MARKET, TRAIN, WEATHER

__all__ = ["GRAMMAR"]

GRAMMAR = Grammar(
    {
        "weather": WEATHER,
        "recipe": RECIPE,
        "story": STORY,
        "train": TRAIN,
        "garden": GARDEN,
        "postcard": POSTCARD,
        "market": MARKET,
        "lost": LOST,
    }
)
