"""How to run a model on a machine: what goes where, how much memory each part takes, how fast it will be."""

from r1local.plan.choose import LEAST_CONTEXT, MARGIN, NO_WISHES, TARGET_CONTEXT, Plan, Wishes, choose
from r1local.plan.memory import Use
from r1local.plan.shape import KV_TYPES, Shape, shape_of_file, shape_of_model

__all__ = [
    "KV_TYPES",
    "LEAST_CONTEXT",
    "MARGIN",
    "NO_WISHES",
    "TARGET_CONTEXT",
    "Plan",
    "Shape",
    "Use",
    "Wishes",
    "choose",
    "shape_of_file",
    "shape_of_model",
]
