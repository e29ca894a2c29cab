"""What measurements mean for a robot, in words."""

from __future__ import annotations

from collections.abc import Sequence
import math
import statistics

from onellm_ros.bench.stages import Stages


def _ms(seconds: float) -> str:
    return f'{seconds * 1e3:.0f} ms' if seconds < 10 else f'{seconds:.0f} s'


def verdict(model: str, device: str, found: Stages, period_s: float, max_tokens: int,
            random: bool) -> list[str]:
    """Return sentences on what this machine can do with a model.

    :param model: its name. :param device: where it computed.
    :param period_s: from one window to the next, as the node has it.
    :param max_tokens: of a description.
    """
    whole, tokens = found.median('description'), statistics.median(found.tokens)
    shown = ' + '.join(m.value for m in found.used) or 'nothing'
    out = [f'This machine can describe {1 / whole:.2g} windows a second of {shown} with {model} '
           f'on {device}: one takes {_ms(whole)}, {_ms(found.median("preprocess"))} to prepare '
           f'its signals, {_ms(found.median("encode"))} to encode them, the rest for '
           f'{tokens:.0f} tokens.']
    if whole <= period_s:
        out.append(f'With a window every {period_s:g} s (window.period_s) it keeps up and '
                   f'computes {100 * whole / period_s:.0f} % of the time.')
    else:
        out.append(f'With a window every {period_s:g} s (window.period_s) it describes one in '
                   f'{math.ceil(whole / period_s)}; the others are skipped and counted, and can '
                   'still be asked about. Fewer modalities, a smaller describe.max_tokens or '
                   'another device make it faster.')
    out.append(f'The first word of a description comes {_ms(found.median("close to first token"))}'
               f' after its window has closed, that of an answer '
               f'{_ms(found.median("question to first token"))} after the question; a whole '
               f'answer takes {_ms(found.median("answer"))}.')
    out += left_out(found)
    if random:
        out.append(f'The weights are random: each text was ended at {max_tokens} tokens '
                   '(--max-tokens), and prompts have more tokens than with the tokenizer of such '
                   'a model.')
    return out


def left_out(found: Stages) -> Sequence[str]:
    """Return what was not shown to the model, and why."""
    return [f'Left out: {reason}.' for reason in found.left_out.values()]
