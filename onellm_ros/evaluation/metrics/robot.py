"""The score of robot-world: the share of right answers, by the rules of the world's language."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from onellm_ros.evaluation.item import Item, Prediction
from onellm_ros.evaluation.robot.counting import grouped
from onellm_ros.evaluation.robot.scoring import rows_of
from onellm_ros.evaluation.robot.tables import PARTS
from onellm_ros.evaluation.task import Score, Tools


def robot_world(items: Sequence[Item], predictions: Sequence[Prediction], tools: Tools) -> Score:
    """Return the share of right answers in percent.

    Every item counts alike, under whichever condition; ``parts`` has each condition, and of what
    each modality was asked alone the answerable questions by modality and ``unknown``.
    """
    rows = rows_of(items, predictions)
    if not rows:
        return Score(None, why='there are no items')
    scores = tuple(100.0 * row.right for row in rows)
    parts = {name: mean(100.0 * row.right for row in found)
             for name, found in grouped(rows, lambda row: row.condition, PARTS).items()}
    alone = [row for row in rows if row.condition == 'alone']
    parts |= {f'alone: {name}': mean(100.0 * row.right for row in found)
              for name, found in grouped(alone, lambda row: row.item.group).items()}
    return Score(mean(scores), scores, parts=parts)
