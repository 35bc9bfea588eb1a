"""Text to the number that Dify takes; and where it takes none, a cure that never changes what the number says. Pure."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal

from dify_batch.text import show

_INTEGER = re.compile(r"[+-]?[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+)")
_EXPONENT = re.compile(r"[+-]?[0-9.,]+[eE][+-]?[0-9]+")
_LONGEST = 100  # characters of a text that a cure is looked for in: no number of a table is longer

_MINUS = dict.fromkeys(map(ord, "\u2212\u2010\u2011\u2012\u2013\ufe63\uff0d"), "-")  # signs that look like a minus
_BLANK = dict.fromkeys(map(ord, "\u00a0\u202f\u2009\u2007\u3000"), " ")
_MONEY = re.compile(
    r"(?:(?!MIO|MRD|TSD|BIO)[A-Z]{3}|[A-Z]{0,2}[$€£¥₹₩₽₺฿₫₴₪]|kr\.?|zł|Kč|Fr\.?|Rs\.?)"
)  # but no millions
_AROUND = re.compile(rf"([+-]?)\s?(?:{_MONEY.pattern}\s?)?([+-]?)\s?([0-9.,].*?)\s?(?:{_MONEY.pattern})?")

# How digits are grouped. Of each, the digits and the point, if any, are what counts.
_ONE_MARK = re.compile(r"([1-9][0-9]{0,2})([.,])([0-9]{3})")
_GROUPS = re.compile(r"[0-9]{1,3}(?:([.,])[0-9]{3})(?:\1[0-9]{3})+")  # 1,234,567
_GROUPS_AND_MARK = re.compile(r"[0-9]{1,3}(?:([.,])[0-9]{3})(?:\1[0-9]{3})*(?!\1)[.,][0-9]+")  # 1.234,50
_LAKH = re.compile(r"[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}(?:\.[0-9]+)?")  # 12,34,567
_BLANKS = re.compile(r"[0-9]{1,3}(?:[ '’][0-9]{3})+(?:[.,][0-9]+)?")
_UNDERSCORES = re.compile(r"[0-9]+(?:_[0-9]+)+(?:\.[0-9]+)?")
_COMMA = re.compile(r"[0-9]*,[0-9]+")
_PLAIN = re.compile(r"[0-9]+\.?[0-9]*|\.[0-9]+")


def number_of(text: str) -> int | float:
    """The number of a text: "12", " 7 ", "1.5", ".5" (dify-wire 06a, 06e, 06x); it is not blank.

    Dify refuses "1e3", "1,5" and "NaN" (06h, 06y, 06z).

    Raises:
        ValueError: says what is wrong, and what to write.
    """
    digits = text.strip()
    if _INTEGER.fullmatch(digits):
        try:
            return int(digits)
        except ValueError:  # more than 4300 digits; Dify's int() refuses them too
            raise ValueError(f"a number of {len(digits)} digits is too large") from None
    if _DECIMAL.fullmatch(digits):
        result = float(digits)
        if result in (float("inf"), float("-inf")):
            raise ValueError(f"{show(text)} is too large for a number")
        return result
    cure = _cure(digits) if len(digits) <= _LONGEST else ""
    raise ValueError(f"{show(text)} is not a number{'; ' + cure if cure else ''}")


def _cure(text: str) -> str:
    """What to write in its place; where it can be read in two ways, both."""
    plain = _ascii(text)
    if _EXPONENT.fullmatch(plain):
        return "Dify takes no exponent, write the digits out"
    if plain.startswith("(") and plain.endswith(")"):  # so accountants write what is owed
        found = _readings(plain[1:-1].strip(), "-")
        return f"if the parentheses stand for a minus, write {_words(found)}" if found else ""
    if plain.endswith("%"):
        found = _readings(plain[:-1].strip(), "")
        if len(found) != 1:
            return f"write {_words(found)} without the sign, or its hundredth part" if found else ""
        fraction = f"{Decimal(found[0][0]) / 100:f}"
        return f"write {found[0][0]}, or {fraction} if the workflow takes a fraction"
    sign, body = ("-", plain[:-1].strip()) if plain.endswith("-") else ("", plain)  # as some bookkeeping writes it
    around = _AROUND.fullmatch(body)
    if around is None or (sign and (around[1] or around[2])) or (around[1] and around[2]):
        return ""
    found = _readings(around[3], sign or (around[1] + around[2]).replace("+", ""))
    if not found:
        return ""
    how = "use a point:" if _COMMA.fullmatch(plain) and len(found) == 1 else "write"
    return f"{how} {_words(found)}"


def _ascii(text: str) -> str:
    """The text with digits of any script, full-width signs, blanks and minus signs as those of ASCII."""
    text = text.translate(_MINUS).translate(_BLANK)
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(char)) if char.isdecimal() else char for char in text)
        text = "".join(chr(ord(char) - 0xFEE0) if "\uff01" <= char <= "\uff5e" else char for char in text)
    return text.strip()


def _readings(body: str, sign: str) -> list[tuple[str, str]]:
    """(number, on what condition) of each way in which digits with marks can be read; [] where there is none."""
    two = _ONE_MARK.fullmatch(body)
    if two is not None and two[2] == ",":
        return [(f"{sign}{two[1]}{two[3]}", ""), (f"{sign}{two[1]}.{two[3]}", "the comma is the decimal mark")]
    if two is not None:
        return [(f"{sign}{body}", ""), (f"{sign}{two[1]}{two[3]}", "the point parts the thousands")]
    if _PLAIN.fullmatch(body):
        return [(sign + body, "")]
    groups = _GROUPS.fullmatch(body) or _GROUPS_AND_MARK.fullmatch(body)
    if groups is not None:
        return [(sign + body.replace(groups[1], "").replace(",", "."), "")]
    if _LAKH.fullmatch(body):
        return [(sign + body.replace(",", ""), "")]
    if _BLANKS.fullmatch(body) or _UNDERSCORES.fullmatch(body):
        return [(sign + re.sub("[ '’_]", "", body).replace(",", "."), "")]
    if _COMMA.fullmatch(body):
        return [(sign + body.replace(",", "."), "")]
    return []


def _words(found: list[tuple[str, str]]) -> str:
    return ", or ".join(f"{number} if {when}" if when else number for number, when in found)
