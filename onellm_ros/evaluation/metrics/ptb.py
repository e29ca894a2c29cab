"""Words of captions as COCO's evaluation counts them: Penn Treebank tokens in lower case.

Published scores of captions come from Stanford's PTBTokenizer (CoreNLP 3.4.1, in Java) called with
``-preserveLines -lowerCase``, and a list of punctuation to drop. This module gives the same words
without Java. Like the original it takes, at each place, the rule that matches the longest text
(what must follow counts), and of equally long ones the first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import functools
import re
import unicodedata

# Dropped afterwards. Brackets come as -lrb- in lower case, which COCO's list does not hold: they
# stay, there as here.
PUNCTUATION = frozenset((
    "''", "'", '``', '`', '-LRB-', '-RRB-', '-LCB-', '-RCB-', '.', '?', '!', ',', ':', '-', '--',
    '...', ';'))
_BRACKETS = str.maketrans({'(': '-LRB-', ')': '-RRB-'})
_FRACTIONS = {'¼': '1/4', '½': '1/2', '¾': '3/4', '⅓': '1/3', '⅔': '2/3'}
_CURRENCY = str.maketrans({
    '¢': 'cents', '£': '#', '\x80': '$', '¤': '$', '\u20a0': '$', '€': '$'})
_QUOTES = str.maketrans({
    '\x91': '`', '‘': '`', '‛': '`', '‹': '`', '\x92': "'", '’': "'", '›': "'",
    '\x93': '``', '“': '``', '«': '``', '\x94': "''", '”': "''", '»': "''"})
# Found by showing it every 16-bit character. Marks (and others) that it takes for letters:
_MARKS = (
    '\u00ad\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384'
    '\u0385\u03f6\u0483-\u0487\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7'
    '\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4\u06e7-\u06ed\u06fd\u06fe\u070f\u0711'
    '\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e\u0951-\u0955'
    '\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3'
    '\u0a01-\u0a03\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2'
    '\u0bc6-\u0bc8\u0bca-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31'
    '\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd')
# Letters and digits younger than its Unicode (6), which it drops:
_YOUNGER = (
    '\u037f\u0528-\u052f\u0560\u0588\u05ef\u0860-\u086a\u0870-\u088f\u08a1\u08ad-\u08c9\u0978'
    '\u0980\u09fc\u0af9\u0c34\u0c5a\u0c5d\u0c80\u0cdd\u0d04\u0d54-\u0d56\u0d5f\u0de6-\u0def'
    '\u0e86\u0e89\u0e8c\u0e8e-\u0e93\u0e98\u0ea0\u0ea8\u0ea9\u0eac\u13f5\u13f8-\u13fd'
    '\u16f1-\u16f8\u170d\u171f\u1878\u191d\u191e\u19b0-\u19c0\u19c8\u19c9\u1b4c\u1c80-\u1c8a'
    '\u1c90-\u1cba\u1cbd-\u1cbf\u1cf2\u1cf3\u1cfa\u2c2f\u2c5f\u312e\u312f\u31bb-\u31bf'
    '\u4db6-\u4dbf\u9fcd-\u9fff\ua698-\ua69d\ua78f\ua794-\ua79f\ua7ab-\ua7f7\ua8fd\ua8fe'
    '\ua9e0-\ua9e4\ua9e6-\ua9fe\uaa7e\uaa7f\uab30-\uab5a\uab5c-\uab69\uab70-\uabbf')
_SPACE = ' \\t\u00a0\u2000-\u200a\u3000'
_NEWLINE = '\\r\\n\u2028\u2029\\x0b\\x0c\\x85'
_SYMBOLS = (
    '+%&~^|\\\\'
    '\u00a6-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00b6-\u00b8\u00d7\u00f7\u0387\u05be\u05c0\u05c3'
    '\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060a\u060c\u0614\u061b\u061e\u066a\u066d'
    '\u0703-\u070d\u07f6-\u07f8\u0964\u0965\u0e4f\u1fbd\u2016\u2017\u2020-\u2023\u2030-\u2038'
    '\u203b\u203e-\u2042\u2044\u207a-\u207e\u208a-\u208e\u2100\u2101\u2103-\u2106\u2108\u2109'
    '\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144'
    '\u214a-\u214d\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40'
    '\uff5b-\uff65')

# Abbreviations that keep their full stop; those above the line end a sentence before a capital.
_ENDING = (
    'Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Mon|Tues?|Wed|Thu|Thurs|Fri'
    '|Ala|Ariz|(?-i:A)z|(?-i:A)rk|Calif|Colo|Conn|Ct|Dak|(?-i:D)el|Fla|Ga|(?-i:I)ll|Ind|Kans?|Ky'
    '|(?-i:L)a|(?-i:M)ass|Md|Mich|Minn|(?-i:M)iss|Mo|Mont|Neb|Nev|Okla|(?-i:O)re|(?-i:P)a|Penn|Tenn'
    '|(?-i:T)ex|Va|Vt|(?-i:W)ash|Wisc?|Wyo|Inc|Cos?|Corp|Pp?t(?-i:[ye])s?|Ltd|Plc|Rt|Bancorp|Bhd'
    '|Assn|Univ|Intl|Sys|tel|est|ext|sq|Jr|Sr|Bros|(?:Ed|Ph)\\.D|Rd|Esq|etc|al|seq|Bldg')
_NAMED = (
    'Mrs?|Ms|Drs?|Profs?|Sens?|Reps?|Attys?|Lt|Col|Gen|Messrs|Govs?|Adm|Rev|Maj|Sgt|Cpl|Pvt|Capt'
    '|Ste?|Ave|Pres|Lieut|Hon|Brig|Co?mdr|Pfc|Spc|Supts?|Det|Mt|Ft|Adj|Adv|Asst|Assoc|Ens|Insp|Mlle'
    '|Mme|Msgr|Sfc|vs|Alex|Wm|Jos|Cie|a\\.k\\.a|cf|TREAS|Ph|Invt|Elec|Natl|M(?-i:[ft])g|Dept|Blvd')
_NUMBERED = 'ca|figs?|prop|nos?|art|pp|op'
_ACRONYM_2 = ('[A-Za-z](?:\\.[A-Za-z])+|(?i:Canada|Sino|Korean|EU|Japan|non)-[Uu]\\.[Ss]'
              '|[Uu]\\.[Ss]\\.-[Uu]\\.(?:[Kk]|[Ss]\\.[Ss]\\.[Rr])')
_ACRONYM = f'(?:{_ACRONYM_2}|[A-Za-z])'
_FILES = ('bat|bmp|c|cgi|class|cpp|dll|docx?|exe|gif|gz|h|html?|jar|java|jpe?g|mov|mp3|pdf|php|pl'
          '|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip')
_OPENERS = (    # words after which an acronym's full stop ends a sentence
    'About|According|Additionally|After|An|A|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last'
    '|Many|More|Mr\\.|Ms\\.|Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Their|Then|There|These'
    '|They|This|We|When|While|What|Yet|You')


def _bmp(kinds: str) -> str:
    """Return the inside of a character class: the 16-bit characters of some Unicode categories."""
    younger = re.compile(f'[{_YOUNGER}]')
    found, start = [], -1
    for code in range(0x10001):
        inside = (code < 0x10000 and unicodedata.category(chr(code)).startswith(kinds)
                  and not younger.match(chr(code)))
        if inside and start < 0:
            start = code
        elif not inside and start >= 0:
            found.append(f'\\u{start:04x}-\\u{code - 1:04x}')
            start = -1
    return ''.join(found)


def _nothing(text: str) -> str:
    return ''


def _same(text: str) -> str:
    return text


def _soft(text: str) -> str:
    return text.replace('\u00ad', '') or '-'


def _no_space(text: str) -> str:
    return text.replace(' ', '\u00a0')


def _quotes(text: str, left: bool = False) -> str:
    text = re.sub("&apos;|'", '`' if left else "'", text)
    return re.sub('"|&quot;', '``' if left else "''", text).translate(_QUOTES)


def _left_quotes(text: str) -> str:
    return _quotes(text, True)


Rule = tuple['re.Pattern[str]', Callable[[str], str], int]


@functools.cache
def _rules() -> tuple[Rule, ...]:
    """Return (pattern, action, characters given back); group 1 is the token, more must follow."""
    letters, digits = _bmp('L') + '\u1885\u1886', _bmp('Nd') + '\u07c0-\u07c9'
    letter = f'(?:[{letters}{_MARKS}]|&[aeiouAEIOU](?i:acute|grave|uml);)'
    digit, space, blank = f'[{digits}]', f'[{_SPACE}]', f'[{_SPACE}{_NEWLINE}]'
    word = f'{letter}(?:{letter}|{digit})*(?:[.!?]{letter}(?:{letter}|{digit})*)*'
    alnum = f'[{letters}{digits}]'
    apos = "(?:['\x92\u2019]|(?i:&apos;))"
    apos2 = "(?:['`\x92\u2019\x91\u2018\u201b]|(?i:&apos;))"
    hyphen = '[-_\u058a\u2010\u2011]'
    num = f'(?:{digit}*(?:[.:,\u00ad\u066b\u066c]{digit}+)+|{digit}+)'
    named = '[A-Za-z][A-Za-z0-9_:.-]*'
    quoted = '[\'"][^\\r\\n\'"]*[\'"]'
    opener = '|'.join(f'{each[0]}(?i:{each[1:]})' for each in _OPENERS.split('|'))
    tag = (f'<(?:[!?][A-Za-z-][^>\\r\\n]*|/?{named}'
           f'(?: +(?:{named}(?: *= *{quoted})?|{quoted}))* */? *)>')
    apart = ' \\t\\n\\f\\r"<>|(){}\u00a0'
    after = '[,;:\u3001]'
    elided = f'(?:[dDoOlL]{apos2}{alnum})?'
    short = f'{apos}(?:[msdMSD]|(?i:re|ve|ll))'
    hyphenated = (f'[A-Za-z0-9][A-Za-z0-9.,\u00ad]*'
                  f'(?:-(?:(?:{_ACRONYM_2})\\.|[A-Za-z0-9\u00ad]+))+')
    upper = _bmp('Lu')
    rows: list[tuple[str, str, Callable[[str], str], int]] = [
        ('[cC]\\+\\+|[cCfF]#', '', _same, 0),
        ("(?i:cannot|'twas)", '', _same, 3),
        (f'(?:{apos}(?i:tis)|(?i:gonna|gotta|lemme|gimme|wanna))', '', _same, 2),
        (tag, '', _no_space, 0),
        ('&(?i:MD|mdash|ndash);|[\x96\x97\u2013-\u2015]', '', lambda text: '--', 0),
        ('(?i:&amp;)', '', lambda text: '&', 0),
        ('&(?:(?i:HT|TL|UR|LR|QC|QL|QR|odq|cdq)|#[0-9]+);', '', _same, 0),
        (word, short, _soft, 0),
        ('[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*', f'[nN]{apos2}[tT]', _soft, 0),
        (word, '', _soft, 0),
        (f"{apos}[nN]{apos}?|[lLdDjJ]{apos}|(?i:Dunkin|somethin|ol){apos}|{apos}(?i:em|till?|cause)"
         f'|[A-HJ-XZn]{apos2}[{letters}][{letters}]+|{apos}[2-9]0[sS]'
         f'|[{letters}]+[aeiouyAEIOUY]{apos2}[aeiouA-Z][{letters}]*'
         f"|(?i:cont'd)\\.?|(?i:nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l)|[oO]{apos2}[oO]",
         '', _same, 0),
        (f'[yY]{apos}', f'[{letters}]', _same, 0),
        ('(?i:https?)://[^ \\t\\n\\f\\r"<>|(){}]+[^ \\t\\n\\f\\r"<>|.!?(){},-]', '', _same, 0),
        ('(?:(?i:www)\\.(?:[^ \\t\\n\\f\\r"<>|.!?(){},]+\\.)+[a-zA-Z]{2,4}'
         '|(?:[^ \\t\\n\\f\\r"`\'<>|.!?(){},-_$]+\\.)+(?i:com|net|org|edu))'
         '(?:/[^ \\t\\n\\f\\r"<>|()]+[^ \\t\\n\\f\\r"<>|.!?(){},-])?', '', _same, 0),
        (f'(?:(?i:&lt;)|<)?[a-zA-Z0-9][^{apart}]*@(?:[^.{apart}]+\\.)*[^.{apart}]+(?:(?i:&gt;)|>)?',
         '', _same, 0),
        (f'@[a-zA-Z_][a-zA-Z_0-9]*|#{letter}+', '', _same, 0),
        (short, '[^A-Za-z]', _quotes, 0),
        (f'[nN]{apos2}[tT]', '[^A-Za-z]', _quotes, 0),
        (f'{digit}{{1,2}}[-/]{digit}{{1,2}}[-/]{digit}{{2,4}}', '', _same, 0),
        (f'[-+]?{num}', '', _soft, 0),
        ('[\u207a\u207b\u208a\u208b]?(?:[\u2070¹²³\u2074-\u2079]+|[\u2080-\u2089]+)', '', _same,
         0),
        (f'(?:{digit}{{1,4}}[- \u00a0])?{digit}{{1,4}}(?:\\\\?/|\u2044){digit}{{1,4}}', '',
         _no_space, 0),
        ('[¼½¾\u2153-\u215e]', '', lambda text: _FRACTIONS.get(text, text), 0),
        ('-(?i:RRB|LRB|RCB|LCB|RSB|LSB)-|(?i:C\\.D\\.s|pro-|anti-|S(?:&|&amp;)P-500|S(?:&|&amp;)Ls)'
         f'|(?i:Cap){apos}[nN]|[cC]{apos}(?i:est)', '',
         lambda text: text.replace('&amp;', '&'), 0),
        ('[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}', '',
         _same, 0),
        ('[A-Z]*\\$|#', '', _same, 0),
        ('[¢£¤¥\x80\u20a0\u20a4\u20ac\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6]', '',
         lambda text: text.translate(_CURRENCY), 0),
        (f'{_ACRONYM}\\.', f'{blank}+(?:{opener}|{tag}){blank}',
         lambda text: text[:-1] if len(text) == 2 else text, -1),
        (f'(?i:{_NUMBERED})\\.', f'{blank}?{digit}', _same, 0),
        ('(?i:pt[eyEY]|co)\\.', f'{space}(?i:ltd|lim)', _same, 0),
        (f'(?i:{_ENDING})\\.', f'{blank}(?:{blank}|[{upper}]|{tag})', _same, -1),
        (f'(?i:{_ENDING})\\.', '[\\s\\S]{2}', _same, 0),
        (f'(?:(?i:{_NAMED})|{_ACRONYM})\\.', '', _same, 0),
        (f'(?:(?i:{_NAMED})|{_ACRONYM})', space, _same, 0),
        (f'{_ACRONYM}', blank, _same, 0),
        (f'{apos}[0-9][0-9]', blank, _same, 0),
        (f'(?:{letter}|{digit})+(?:\\.(?:{letter}|{digit})+)*\\.(?i:{_FILES})', f'{blank}|[.?!,]',
         _same, 0),
        (f'{word}\\.', after, _soft, 0),
        ('(?:\\([0-9]{2,3}\\)[ \u00a0]?|(?:\\+\\+?)?(?:[0-9]{2,4}[- \u00a0])?[0-9]{2,4}[- \u00a0])'
         '[0-9]{3,4}[- \u00a0]?[0-9]{3,5}|(?:(?:\\+\\+?)?[0-9]{2,4}\\.)?[0-9]{2,4}\\.[0-9]{3,4}'
         '\\.[0-9]{3,5}', '', lambda text: _no_space(text).translate(_BRACKETS), 0),
        ('"|(?i:&quot;)', '[A-Za-z0-9$]', _left_quotes, 0),
        ('"|(?i:&quot;)', '', _quotes, 0),
        ('\x7f', '', _nothing, 0),
        ('<|(?i:&lt;)', '', lambda text: '<', 0),
        ('>|(?i:&gt;)', '', lambda text: '>', 0),
        ("[<>]?[:;=][-o*']?[()DPdpO\\\\{@|\\[\\]]", '[^A-Za-z0-9]',
         lambda text: text.translate(_BRACKETS), 0),
        ("[\\^x=~<>]\\.\\[\\^x=~<>]|[-\\^x=~<>']_[-\\^x=~<>']|\\([-\\^x=~<>'][_.]?[-\\^x=~<>']\\)"
         "|\\([\\^x=~<>']-[\\^x=~<>'`]\\)", '', lambda text: text.translate(_BRACKETS), 0),
        ('\\{', '', lambda text: '-LCB-', 0),
        ('\\}', '', lambda text: '-RCB-', 0),
        ('\\[', '', lambda text: '-LSB-', 0),
        ('\\]', '', lambda text: '-RSB-', 0),
        ('\\(', '', lambda text: '-LRB-', 0),
        ('\\)', '', lambda text: '-RRB-', 0),
        ('-+', '', lambda text: '--' if len(text) in (3, 4) else text, 0),
        ('\\.{3,5}|(?:\\.[ \u00a0]){2,4}\\.|[\x85\u2026]', '', lambda text: '...', 0),
        ('@+|#+|_+', '', _same, 0),
        ('\\*+|(?:\\\\\\*){1,3}', '', _same, 0),
        (after, '', _same, 0),
        ('[?!]+', '', _same, 0),
        ('[.¡¿\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002=/]', '', _same, 0),
        (hyphenated, '', _soft, 0),
        (f'{hyphenated}\\.', after, _soft, 0),
        (f'{elided}{alnum}+(?:{hyphen}{elided}{alnum}+)*\\.', after, _same, 0),
        (f'{elided}{alnum}+(?:{hyphen}{elided}{alnum}+)*', '', _same, 0),
        ('[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+\\.', after,
         lambda text: text.replace('&amp;', '&'), 0),
        ('[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+', '', lambda text: text.replace('&amp;', '&'), 0),
        ("'", '[A-Za-z][^ \\t\\n\\r\u00a0]', _left_quotes, 0),
        (short, '', _quotes, 0),
        (f"''|[`‘’‚‛“”\x91-\x94„‟‹›«»]{{1,2}}|{apos}", '', _quotes, 0),
        ('<<|>>', '', _same, 0),
        (f'[{_SYMBOLS}]', '', _same, 0),
        (f'{space}+|[\\0\u200b\u200e\u200f\ufeff]', '', _nothing, 0),
        ('(?i:&nbsp;)', '', _nothing, 0),
    ]
    return tuple((re.compile(f'({token})(?:{follows})'), action, back)
                 for token, follows, action, back in rows)


_PLAIN = re.compile(f'([A-Za-z]+) [{_SPACE}]*')
_SPLIT = frozenset(('cannot', 'gonna', 'gotta', 'lemme', 'gimme', 'wanna'))
_OTHER_NEWLINES = re.compile('[\n\r\x0b\x0c\x85\u2028\u2029]')
_AHEAD = 64     # characters of the captions behind that a rule may look at


@functools.lru_cache(maxsize=1 << 17)
def _tokens(text: str, ahead: str) -> str:
    """Return the tokens of a text, parted by blanks; ``ahead`` follows, from its newline on."""
    text, end = text + ahead, len(text)
    found: list[str] = []
    at = 0
    while at < end:
        plain = _PLAIN.match(text, at)
        if plain and plain[1].lower() not in _SPLIT:
            found.append(plain[1])
            at = plain.end()
            continue
        furthest, token_end, back = at, at + 1, 0
        action: Callable[[str], str] = _nothing
        for pattern, rule_action, rule_back in _rules():
            match = pattern.match(text, at)
            if match and match.end() > furthest:
                furthest, token_end = match.end(), match.end(1)
                action, back = rule_action, rule_back
        given = token_end - max(back, 0)    # a full stop that also ends a sentence is in both
        token = action(text[at:given])
        if token:
            found.append(token)
        at = token_end - abs(back)
    return ' '.join(found).lower().rstrip()


def tokenize(captions: Sequence[str]) -> list[str]:
    """Return the words of captions, of each parted by single blanks.

    The original reads all captions as one text, and an abbreviation's full stop depends on the
    word behind it (``plan B.`` before a caption that begins with ``The``): so it is here. Other
    line ends than newline are blanks too; the original takes them for the next caption's begin.
    """
    lines = [_OTHER_NEWLINES.sub(' ', caption) for caption in captions]
    found, ahead = [], ''
    for line in reversed(lines):
        tokens = _tokens(line, ahead)
        found.append(' '.join(token for token in tokens.split(' ') if token not in PUNCTUATION))
        ahead = f'\n{line}{ahead}'[:_AHEAD]
    return found[::-1]
