"""What encoding bytes probably are in, told by what each candidate makes of them for the languages it was made for.

A library for this (charset-normalizer) weighs letters by their frequency, for which the few words of a table do not
suffice: it takes Japanese for Czech. Here a candidate is judged by what no garbled text has: whole words of one script,
in one case, with the letters of the language; Chinese, Japanese and Korean by their common characters. Only for the
words of an error message; what is read is never decided by it.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

_NAMED = 4  # candidates that a message names: more would be no help
_GOOD = 0.8  # the least score of a candidate that makes sense
_NEAR = 0.12  # candidates so much worse than the best are named beside it
_LETTERS = 4000  # characters beyond ASCII that are looked at: enough, and quick

_OWN = 0.1  # what letters of one language only add to a score
_HALF_WIDTH = re.compile("[\uff66-\uff9f]{2,}")  # kana of banks and old systems; single ones are garbled Latin letters
_WORD = re.compile(r"[^\W\d_]+")
_AROUND = re.compile(r"[^\s,;|\"]*")

# Signs of Windows' code pages for the west that word processors put in; they stand for no language.
_SIGNS = frozenset("“”„‘’‚–—…«»‹›•·€£§°©®™¡¿½¼¾²³±×÷ªº\u00a0")
_ONE_LETTER = frozenset("àáéèêóòôùúîåöãäü")  # words, or a heading's letter
_CJK_SIGNS = frozenset(
    "、。，．・：；？！「」『』（）【】《》〈〉…—～“”‘’　〜ー々％＆＋－＝／０１２３４５６７８９①②③④⑤⑥⑦⑧⑨⑩"
)


@dataclass(frozen=True, slots=True)
class Guess:
    """A codec, and how it reads the word around the byte in question."""

    codec: str
    word: str


def _latin(letters: str) -> Callable[[str], float]:
    """Judges text by words of ASCII letters and some of `letters` (lower case), in one case."""
    known = frozenset(letters + letters.upper())

    def judge(text: str) -> float:
        good = total = 0
        for word in _WORD.findall(text):
            foreign = [char for char in word if char > "\x7f"]
            if foreign:
                total += len(foreign)
                # "łódź" has three of four; one letter alone is a word in few languages, and common in garbled text.
                usual = len(foreign) <= len(word) * 0.75 if len(word) > 1 else word.lower() in _ONE_LETTER
                good += len(foreign) * (usual and known.issuperset(foreign) and _one_case(word))
        others = [char for char in text if char > "\x7f" and not char.isalpha()]
        strange = sum(char not in _SIGNS for char in others)
        if not total:  # only quotes and dashes
            return 1.0 if others and not strange else 0.0
        return good / (total + strange)

    return judge


def _script(first: str, last: str, name: str) -> Callable[[str], float]:
    """Judges text by whole words of one script; `first` and `last`: its usual letters."""

    def judge(text: str) -> float:
        good = total = 0
        for word in _WORD.findall(text):
            foreign = [char for char in word if char > "\x7f"]
            if foreign:
                total += len(foreign)
                fits = len(foreign) == len(word) and all(first <= char <= last or _accent(char, name) for char in word)
                good += len(foreign) * (fits and _one_case(word))
        others = [char for char in text if char > "\x7f" and not char.isalpha()]
        strange = sum(not (char in _SIGNS or first <= char <= last) for char in others)
        return good / (total + strange) if total else 0.0

    return judge


def _accent(char: str, name: str) -> bool:
    return unicodedata.name(char, "").startswith(name)


def _one_case(word: str) -> bool:
    return word.islower() or word.isupper() or word[1:].islower() or word.upper() == word.lower()


def _common(
    codec: str, low: int, high: int, letters: Callable[[str], bool], more: bytes = b""
) -> Callable[[str], float]:
    """Judges text by common characters: `letters`, and those whose first byte in `codec` is from `low` to `high`, where
    its standard has the frequent ones, or one of `more`."""

    def judge(text: str) -> float:
        foreign = [char for char in text if char > "\x7f"]
        if not foreign:
            return 0.0
        own = sum(map(letters, foreign))
        half = sum(map(len, _HALF_WIDTH.findall(text))) if codec == "cp932" else 0
        # Kana and Hangul stand for themselves; the common Chinese characters are in all these encodings.
        return (sum(map(fits, foreign)) + half + _OWN * own) / len(foreign)

    def fits(char: str) -> bool:
        if char in _CJK_SIGNS or letters(char):
            return True
        try:
            raw = char.encode(codec)
        except UnicodeEncodeError:
            return False
        return len(raw) == 2 and (low <= raw[0] <= high or raw[0] in more)

    return judge


def _kana(char: str) -> bool:
    return "\u3041" <= char <= "\u30ff"


def _hangul(char: str) -> bool:
    """One of the 2,350 in use; cp949 has all 11,172, which garbled text turns into."""
    try:
        return "\uac00" <= char <= "\ud7a3" and len(char.encode("euc_kr")) == 2
    except UnicodeEncodeError:
        return False


def _nothing(char: str) -> bool:
    return False


_WEST = "àáâãäåæçèéêëìíîïñòóôõöøœùúûüýÿßšž"
_CANDIDATES: tuple[tuple[str, Callable[[str], float]], ...] = (
    ("cp1252", _latin(_WEST)),
    ("cp1250", _latin("áäąâăçćčďđéęěëíîľĺłńňóôöőŕřśšşťţúůüűýźžż" + "ß")),
    ("cp1254", _latin("âçğıîöşüûİ")),
    ("cp1257", _latin("āąčćēęėģīįķļłńņōóõöśšūųüźžżä")),
    ("cp932", _common("cp932", 0x88, 0x98, _kana, b"\x87\xed\xee\xfa\xfb\xfc")),  # with names and signs of NEC and IBM
    ("gb18030", _common("gb2312", 0xB0, 0xD7, _nothing)),
    ("big5", _common("big5", 0xA4, 0xC6, _nothing)),
    ("cp949", _common("euc_kr", 0xB0, 0xC8, _hangul)),
    ("euc_jp", _common("euc_jp", 0xB0, 0xCF, _kana)),
    ("cp1251", _script("Ѐ", "ӿ", "CYRILLIC")),
    ("koi8-r", _script("Ѐ", "ӿ", "CYRILLIC")),
    ("cp866", _script("Ѐ", "ӿ", "CYRILLIC")),
    ("cp1253", _script("Ͱ", "Ͽ", "GREEK")),
    ("cp1255", _script("\u05d0", "\u05ea", "HEBREW")),
    ("cp1256", _script("\u0621", "\u06d2", "ARABIC")),
    ("cp874", _script("\u0e01", "\u0e5b", "THAI")),
    ("mac-roman", _latin(_WEST)),
    ("cp850", _latin(_WEST)),
)
"""What spreadsheets and databases write, the commonest first: of equal ones the first is named."""


def guesses(sample: bytes, bad: int) -> list[Guess]:
    """The candidates that make sense of a sample, best first, at most four; each reads it differently.

    Args:
        bad: offset of a byte beyond ASCII, whose word is shown.
    """
    begin = sample.rfind(b"\n", 0, bad) + 1 if len(sample) > _LETTERS else 0
    begin = min(begin, max(0, sample.rfind(b"\n", 0, max(0, bad - _LETTERS)) + 1))
    sample, bad = sample[begin : bad + _LETTERS], bad - begin
    scored = []
    seen: set[str] = set()
    for place, (codec, judge) in enumerate((("utf-8", _any), *_CANDIDATES)):
        text = _decoded(sample, codec)
        if text is None or text in seen or any("\x80" <= char <= "\x9f" for char in text):
            continue
        seen.add(text)
        score = judge(text)
        if score >= _GOOD:
            scored.append((-score, place, codec, _word(sample, bad, codec)))
    scored.sort()
    return [Guess(codec, word) for score, _, codec, word in scored[:_NAMED] if score <= scored[0][0] + _NEAR]


def _any(text: str) -> float:
    return 1.5  # what is valid UTF-8 by chance is rarer than any other mistake


def _decoded(sample: bytes, codec: str) -> str | None:
    try:
        return codecs.getincrementaldecoder(codec)().decode(sample)  # it may end within a character
    except (UnicodeDecodeError, LookupError):
        return None


def _word(sample: bytes, bad: int, codec: str) -> str:
    text = _decoded(sample, codec) or ""
    at = len(_decoded(sample[:bad], codec) or "")
    begin = max((text.rfind(mark, 0, at) for mark in ' ,;\t|"\n\r'), default=-1) + 1
    begin = max(begin, at - 10)
    match = _AROUND.match(text, begin)
    return match[0][:20] if match else ""
