"""The made-up language model: what it says to a prompt, and what that costs. Pure.

A prompt can direct it, as that of the recordings did: `@n=3` says "w1 w2 w3 ", `@gap=0.5` waits so many seconds for
each word, `@tool=1` has an agent use its tool first, `@err=ratelimit` is an error, `@err=mid` one after two words.
Without `@n` it repeats the prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

_DIRECTION = re.compile(r"@(\w+)=(\S+)")
_PROMPT_PRICE, _ANSWER_PRICE, _PRICE_UNIT = Decimal("0.003"), Decimal("0.006"), Decimal("0.001")
_ZERO = Decimal("0.0000000")
CURRENCY = "USD"


@dataclass(frozen=True, slots=True)
class Speech:
    """What the model says. gap: seconds before each piece, None: as the server is set; error: its message, raised after
    `pieces`."""

    pieces: tuple[str, ...]
    gap: float | None = None
    error: str | None = None
    tool: bool = False

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def speak(prompt: str) -> Speech:
    """The model's answer to a prompt."""
    told = dict(_DIRECTION.findall(prompt))
    count = int(told["n"]) if told.get("n", "").isdigit() else None
    pieces = ("Echo: ", prompt) if count is None else tuple(f"w{number} " for number in range(1, count + 1))
    gap = float(told["gap"]) if "gap" in told else None
    tool = told.get("tool") == "1"
    match told.get("err"):
        case None:
            return Speech(pieces, gap, None, tool)
        case "mid":
            return Speech(pieces[:2], gap, "made-up error in the middle", tool)
        case kind:
            return Speech((), gap, f"made-up {kind} error", tool)


def count_tokens(text: str) -> int:
    """One for each word."""
    return len(text.split())


def price_of(prompt: int, answer: int) -> Decimal:
    """Of so many tokens."""
    return prompt * _PROMPT_PRICE * _PRICE_UNIT + answer * _ANSWER_PRICE * _PRICE_UNIT


def usage(prompt: int, answer: int, latency: float, *, first: float | None = None, total: float | None = None) -> Any:
    """`metadata.usage` of an answer (dify-wire 31.2). first, total: the times to the first token and of generating."""
    prompt_price = prompt * _PROMPT_PRICE * _PRICE_UNIT + _ZERO
    answer_price = answer * _ANSWER_PRICE * _PRICE_UNIT + _ZERO
    return {
        "prompt_tokens": prompt,
        "prompt_unit_price": str(_PROMPT_PRICE),
        "prompt_price_unit": str(_PRICE_UNIT),
        "prompt_price": f"{prompt_price:f}",
        "completion_tokens": answer,
        "completion_unit_price": str(_ANSWER_PRICE),
        "completion_price_unit": str(_PRICE_UNIT),
        "completion_price": f"{answer_price:f}",
        "total_tokens": prompt + answer,
        "total_price": f"{prompt_price + answer_price:f}",
        "currency": CURRENCY,
        "latency": latency,
        "time_to_first_token": first,
        "time_to_generate": total,
    }


def no_usage(latency: float, *, first: float | None = None, total: float | None = None) -> Any:
    """Of an answer that no model took part in."""
    none = dict.fromkeys(
        ("prompt_unit_price", "prompt_price_unit", "prompt_price", "completion_unit_price", "completion_price_unit",
         "completion_price", "total_price"), "0.0",
    )  # fmt: skip
    return usage(0, 0, latency, first=first, total=total) | none
