"""A data set of annotated sensor files, read lazily, for torch's DataLoader."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from onellm_ros.config import ModelConfig
from onellm_ros.datasets import rows
from onellm_ros.datasets.config import ON_BROKEN, SetConfig, annotation_files
from onellm_ros.datasets.errors import Broken, BrokenSampleError, DataError, RowError
from onellm_ros.datasets.examples import Example
from onellm_ros.datasets.index import RowFile
from onellm_ros.datasets.rows import Item
from onellm_ros.datasets.signals import read_signal
from onellm_ros.files import FileError
from onellm_ros.preprocess import PreprocessError


class FileSet(Dataset['Example | Broken']):
    """All examples of the annotation files of one data set.

    The files are indexed here; a row is read and its signal decoded only in ``__getitem__``, so in
    a DataLoader's worker processes. It pickles as 8 bytes a row.

    :param config: the data set. :param model: whose inputs the signals become.
    :param root: folder that paths are relative to.
    :param on_broken: ``error``: a broken sample raises; ``skip``: it is given as a
        :class:`Broken` record, to be counted (``collate`` gathers them in ``skipped``).
    :raises DataError: if annotation files are missing, damaged or without the columns they need.
    """

    def __init__(self, config: SetConfig, model: ModelConfig, root: str | Path = '.', *,
                 on_broken: str = 'error') -> None:
        if on_broken not in ON_BROKEN:
            raise DataError(f'on_broken: found {on_broken!r}, expected one of {ON_BROKEN}')
        self.config, self.model, self.root = config, model, Path(root).expanduser()
        self.on_broken = on_broken
        paths = annotation_files(config, self.root)
        if not paths:
            raise DataError(f'{self.root / config.file}: no such annotation file')
        self.files = [RowFile.open(path) for path in paths]
        for file in self.files:
            lacking = {'caption', 'url'} - set(file.columns)
            if file.form == 'table' and lacking:
                raise DataError(
                    f'{file.path}: found the columns {", ".join(file.columns)}, expected caption '
                    f'and url, separated by tabs ({" and ".join(sorted(lacking))} missing)')
        self._ends = np.cumsum([len(file) for file in self.files])
        if len(self) == 0:
            raise DataError(f'{paths[0]}: the data set {config.title!r} has no rows')

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def name(self) -> str:
        """The data set's name."""
        return self.config.title

    def _place(self, index: int) -> tuple[RowFile, int]:
        """Return the file of a row and its number there."""
        if not 0 <= index < len(self):
            raise IndexError(f'{self.name}: row {index} of {len(self)}')
        number = int(np.searchsorted(self._ends, index, 'right'))
        return self.files[number], index - int(self._ends[number] - len(self.files[number]))

    def item(self, index: int) -> Item:
        """Return what a row says, without reading its signal.

        :raises BrokenSampleError: for a row that is not understood.
        """
        file, row = self._place(index)
        try:
            read = rows.alignment if self.config.kind == 'alignment' else rows.instruction
            return read(file.read(row), self.config, self.root)
        except RowError as error:
            broken = Broken(str(file.path), row, '', str(error))
            raise BrokenSampleError(str(broken), broken) from None

    def read(self, index: int, variant: int = 0) -> Example:
        """Return an example.

        :param variant: which of several captions, counted on over their end.
        :raises BrokenSampleError: for a row or a sensor file that cannot be used.
        """
        item = self.item(index)
        turns = item.variants[variant % len(item.variants)]
        sense, kind = self.config.sense, self.config.kind
        file, row = self._place(index)
        if item.signal is None or sense is None:
            return Example(None, None, turns, kind, str(file.path), self.name, index)
        path = str(item.signal.path)
        try:
            tensor = read_signal(sense, item.signal, self.model)
        except (FileError, PreprocessError) as error:
            broken = Broken(str(file.path), row, path, str(error))
            raise BrokenSampleError(str(broken), broken) from None
        return Example(sense, tensor, turns, kind, path, self.name, index)

    def get(self, index: int, variant: int = 0) -> Example | Broken:
        """Return an example, or what is wrong with it where broken ones are skipped.

        :raises BrokenSampleError: where they are not.
        """
        try:
            return self.read(index, variant)
        except BrokenSampleError as error:
            if self.on_broken == 'error' or error.broken is None:
                raise
            return error.broken

    def __getitem__(self, index: int) -> Example | Broken:
        return self.get(index)
