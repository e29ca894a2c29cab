#!/usr/bin/env python3
"""Write the official values of test/golden/metrics_captions.json anew, from the cases in it.

Needs Java and requirements/eval.txt: pycocoevalcap's own tokenizer, BLEU, ROUGE, CIDEr and METEOR
run on each set of cases as its evaluation runs them. Nothing of this repository is imported.
"""

from __future__ import annotations

import json
from pathlib import Path
import sys

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.meteor.meteor import Meteor
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

FILE = Path(__file__).parents[1] / 'test' / 'golden' / 'metrics_captions.json'


def main() -> None:
    """Fill in the values."""
    golden = json.loads(FILE.read_text(encoding='utf-8'))
    for name, cases in golden['sets'].items():
        truth = {index: [{'caption': text} for text in case['answers']]
                 for index, case in enumerate(cases)}
        said = {index: [{'caption': case['said']}] for index, case in enumerate(cases)}
        truth, said = PTBTokenizer().tokenize(truth), PTBTokenizer().tokenize(said)
        bleu = Bleu(4).compute_score(truth, said, verbose=0)[0]
        rouge, cider = Rouge().compute_score(truth, said), Cider().compute_score(truth, said)
        meteor = Meteor().compute_score(truth, said)[0]
        golden['values'][name] = {
            'answers': list(truth.values()), 'said': [words for words, in said.values()],
            'bleu': [float(value) for value in bleu], 'meteor': float(meteor),
            'rouge': float(rouge[0]), 'rouge_items': [float(value) for value in rouge[1]],
            'cider': float(cider[0]), 'cider_items': [float(value) for value in cider[1]]}
    FILE.write_text(json.dumps(golden, ensure_ascii=False, indent=1) + '\n', encoding='utf-8')
    print(f'{FILE}: {sum(map(len, golden["sets"].values()))} cases')


if __name__ == '__main__':
    sys.exit(main())
