"""The plain reference that the soak and the tests share."""

from stream.soak.reference import Bags, PlainEvent, bags

__all__ = ["Bags", "PlainEvent", "bags"]
