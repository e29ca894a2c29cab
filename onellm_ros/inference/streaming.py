"""Text out of tokens as they come: whole characters, nothing of the stop text, no end blanks."""

from __future__ import annotations

from onellm_ros.model.text import Text

_BROKEN = '\ufffd'  # what a decoder writes for an unfinished UTF-8 character


class Detokenizer:
    """Turns a growing list of token ids into text deltas.

    Held back until it is clear what they are: bytes of an unfinished character, the beginning of
    the stop text, and blanks (an answer neither begins nor ends with them).

    :param stop: text that ends the answer; empty for none.
    """

    def __init__(self, text: Text, stop: str) -> None:
        self._text = text
        self._stop = stop
        self._ids: list[int] = []
        self._start = 0          # ids from here on are decoded together, for their context ...
        self._done = 0           # ... and those up to here are in the text already
        self._held = ''
        self.emitted = ''
        self.stopped = False

    def add(self, token: int) -> str:
        """Take one token and return the text that is certain now (often empty)."""
        if self.stopped:
            return ''
        self._ids.append(token)
        before = self._text.decode(self._ids[self._start:self._done])
        now = self._text.decode(self._ids[self._start:])
        if now.endswith(_BROKEN):
            return ''
        if len(now) > len(before):
            self._held += now[len(before):]
            self._start, self._done = self._done, len(self._ids)
        return self._release(last=False)

    def finish(self) -> str:
        """Return what was held back and belongs to the answer; an unfinished character is not."""
        if self.stopped:
            return ''
        before = self._text.decode(self._ids[self._start:self._done])
        rest = self._text.decode(self._ids[self._start:])[len(before):]
        self._held += rest.rstrip(_BROKEN)
        return self._release(last=True)

    def _release(self, *, last: bool) -> str:
        if not self.emitted:
            self._held = self._held.lstrip()
        cut = self._held.find(self._stop) if self._stop else -1
        if cut >= 0:
            self.stopped = True
            self._held = self._held[:cut]
        if self.stopped or last:
            sure = self._held.rstrip()
            self._held = ''
        else:
            keep = len(self._held)
            for n in range(min(len(self._stop) - 1, keep), 0, -1):
                if self._held.endswith(self._stop[:n]):
                    keep -= n
                    break
            sure = self._held[:keep].rstrip()
            self._held = self._held[len(sure):]
        self.emitted += sure
        return sure
