"""The model families by name."""

from trainables.captioning import Captioning

FAMILIES = {f.name: f for f in (Captioning,)}
