"""The form against cells: the same verdicts as Dify's own (recorded exchanges in tests/wire), and types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dify_batch.input.bound import BoundForm
from dify_batch.input.form import Form, Inputs
from dify_batch.input.records import Problem, Row

WIRE = Path(__file__).parent.parent / "wire"


def body(exchange: str) -> Any:
    recorded = json.loads((WIRE / f"{exchange}.json").read_text(encoding="utf-8"))
    return json.loads(recorded["response"]["body"])


ECHO = Form.from_parameters(body("19-parameters-W1"))


def told(bound: BoundForm) -> tuple[str, ...]:
    assert {notice.code for notice in bound.warnings} == {"unknown_column"}
    return tuple(notice.message for notice in bound.warnings)


def bind(form: Form, *header: str, typed: bool = False, id_column: str = "id") -> BoundForm:
    return form.bind(header, id_column=id_column, base_dir=Path(), typed=typed)


def one(form: Form, typed: bool = False, **cells: Any) -> tuple[dict[str, Any], list[Problem]]:
    bound = bind(form, "id", *cells, typed=typed)
    inputs, problems = bound.inputs(Row(1, 2, "r", {"id": "r", **cells}))
    return inputs.values, problems


def variable(type_: str, **more: Any) -> Form:
    entry = {"variable": "v", "label": "V", "required": False, **more}
    return Form.from_parameters({"user_input_form": [{type_: entry}]})


# what Dify says

RECORDED = [
    "05g-required-empty-string",
    "05h-required-null",
    "05i-required-wrong-type",
    *(path.stem for path in sorted(WIRE.glob("06*.json"))),
]

STRICTER = {
    "06f-input-n-true": "a boolean stays one in a number input",
    "06s-input-flag-maybe": "any text stays as it is in a checkbox",
}
"""Accepted by Dify, refused here: the value would not be what the input's type says."""

LEFT_OUT = {"06m-input-tone-optional-select-empty-string": "tone"}
"""Refused by Dify, and so not sent: an empty cell of an optional input is left out."""


def exchange(name: str) -> tuple[dict[str, Any], bool, dict[str, Any]]:
    """The inputs sent, whether Dify took them, the outputs (the app hands its inputs back)."""
    recorded = json.loads((WIRE / f"{name}.json").read_text(encoding="utf-8"))
    sent = json.loads(recorded["request"]["body"])["inputs"]
    response = recorded["response"]
    if "sse" in response:
        assert '"event":"error"' in response["sse"][-1]["data"]
        return sent, False, {}
    answer = json.loads(response["body"])
    accepted = response["status"] == 200
    return sent, accepted, answer["data"]["outputs"] if accepted else {}


def test_there_are_recorded_exchanges() -> None:
    assert len(RECORDED) == 32
    assert sum(exchange(name)[1] for name in RECORDED) == 16


@pytest.mark.parametrize("name", RECORDED)
def test_same_verdict_as_dify_on_typed_values(name: str) -> None:
    sent, accepted, _ = exchange(name)
    values, problems = one(ECHO, typed=True, **sent)
    if name in LEFT_OUT:
        assert not accepted
        assert not problems
        assert LEFT_OUT[name] not in values
    else:
        assert bool(problems) == (not accepted or name in STRICTER)


TEXTS = [name for name in RECORDED if all(isinstance(value, str) for value in exchange(name)[0].values())]


@pytest.mark.parametrize("name", TEXTS)
def test_same_verdict_and_value_as_dify_on_cells(name: str) -> None:
    sent, accepted, outputs = exchange(name)
    values, problems = one(ECHO, **sent)
    if name == "06u-input-meta-json-object-given-as-a-string":
        assert values["meta"] == {"a": 1}  # the text is parsed here; Dify wants the object
    elif name == "05g-required-empty-string":
        assert [problem.kind for problem in problems] == ["required"]  # an empty cell is no value
    elif name in LEFT_OUT:
        assert not problems
        assert LEFT_OUT[name] not in values
    else:
        assert bool(problems) == (not accepted or name in STRICTER)
        if not problems:
            for key, value in values.items():
                if key in outputs:
                    assert (value, type(value)) == (outputs[key], type(outputs[key]))


# types


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("12", 12),
        (" 7 ", 7),
        ("-0", 0),
        ("+3", 3),
        ("007", 7),
        ("1.5", 1.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-1.25", -1.25),
    ],
)
def test_numbers(cell: str, value: float) -> None:
    values, problems = one(variable("number"), v=cell)
    assert (values["v"], type(values["v"]), problems) == (value, type(value), [])


@pytest.mark.parametrize(
    "cell", ["1e3", "1.5e3", "1,5", "1_000", "NaN", "inf", "٣", "1 2", "0x1", "--1", ".", "9" * 5000]
)
def test_not_numbers(cell: str) -> None:
    _, problems = one(variable("number"), v=cell)
    assert [problem.kind for problem in problems] == ["not_a_number"]


@settings(deadline=None)
@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False).map(lambda number: round(number, 3)))
def test_plain_numbers_come_back(number: float) -> None:
    text = str(number)
    values, problems = one(variable("number"), v=text)
    assert problems == [] if "e" not in text else problems != []
    assert values.get("v", number) == number


@pytest.mark.parametrize(
    ("cell", "value"),
    [(word, True) for word in ("true", "TRUE", " Yes ", "on", "1")]
    + [(word, False) for word in ("false", "No", "OFF", "0")],
)
def test_checkboxes(cell: str, value: bool) -> None:
    assert one(variable("checkbox", required=True), v=cell) == ({"id": "r", "v": value}, [])


def test_text_length_is_counted_in_characters() -> None:
    form = variable("paragraph", max_length=3)
    assert one(form, v="😀日é") == ({"id": "r", "v": "😀日é"}, [])
    assert one(form, v="😀日é.")[1][0].message == "it has 4 characters; at most 3 are allowed"


@pytest.mark.parametrize(
    "type_", ["number", "select", "checkbox", "json_object", "file", "file-list", "paragraph", "new"]
)
@pytest.mark.parametrize("typed", [False, True])
def test_empty_optional_cells_are_left_out(type_: str, typed: bool) -> None:
    form = variable(type_, options=["a"])
    cells: list[str | None] = [None] if typed else [""]
    cells += [" "] if type_ in ("number", "checkbox", "json_object", "file", "file-list") else []
    cells += [""] if type_ != "paragraph" else []
    for cell in cells:
        assert one(form, typed, v=cell) == ({"id": "r"}, []), repr(cell)


@pytest.mark.parametrize("type_", ["number", "select", "checkbox", "json_object", "file", "file-list", "text-input"])
def test_empty_required_cells_are_problems(type_: str) -> None:
    _, problems = one(variable(type_, required=True, options=["a"]), v="")
    assert problems == [Problem("required", "the input is required and is empty; fill it in", 2, "v", "r")]


def test_an_empty_text_of_json_lines_is_a_value() -> None:
    assert one(variable("paragraph", required=True), True, v="") == ({"id": "r", "v": ""}, [])


def test_unknown_types_are_sent_as_text() -> None:
    assert one(variable("colour"), v=" #fff ") == ({"id": "r", "v": " #fff "}, [])


@pytest.mark.parametrize("type_", ["paragraph", "text-input", "new"])
def test_text_that_would_not_arrive_as_it_is(type_: str) -> None:
    assert one(variable(type_), True, v="a\0b")[1][0].kind == "nul"
    assert one(variable(type_), True, v="a\ud83d")[1][0].kind == "surrogate"


def test_nul_inside_an_object_is_kept_by_dify() -> None:
    assert one(variable("json_object"), v='{"x": "n\\u0000ul"}') == ({"id": "r", "v": {"x": "n\0ul"}}, [])


def test_number_as_text_in_json_lines_is_converted_and_nothing_else() -> None:
    assert one(variable("number"), True, v="12") == ({"id": "r", "v": 12}, [])
    assert one(variable("checkbox"), True, v=1)[1] != []
    assert one(variable("json_object"), True, v="{}")[1] != []


# columns


def test_columns_are_bound_by_name_then_by_label() -> None:
    form = variable("number")
    assert one(form, V="3") == ({"id": "r", "v": 3}, [])
    assert one(form, typed=True, V=3) == ({"id": "r", "v": 3}, [])
    assert bind(form, "id", "V").warnings == ()


def test_a_label_of_two_inputs_binds_none() -> None:
    entries = [{"number": {"variable": name, "label": "same", "required": False}} for name in "ab"]
    bound = bind(Form.from_parameters({"user_input_form": entries}), "id", "same")
    assert told(bound) == ('column "same" is no input of the app, and Dify drops it silently',)


def test_unknown_columns_warn_with_the_nearest_name_and_are_sent() -> None:
    bound = bind(ECHO, "id", "query", "langauge", "zzz")
    assert bound.problems == ()
    assert told(bound) == (
        'column "langauge" is no input of the app, and Dify drops it silently; did you mean "language"?',
        'column "zzz" is no input of the app, and Dify drops it silently',
    )
    row = Row(1, 2, "r", {"id": "r", "query": "q", "langauge": "en", "zzz": ""})
    assert bound.inputs(row) == (Inputs({"id": "r", "query": "q", "langauge": "en", "zzz": ""}), [])


@pytest.mark.parametrize("typed", [False, True])
def test_the_id_goes_under_its_key_too_and_never_warns(typed: bool) -> None:
    bound = bind(ECHO, "customer", "query", id_column="customer", typed=typed)
    assert bound.warnings == ()
    inputs, problems = bound.inputs(Row(1, 2, "c", {"customer": "c", "query": "q"}))
    assert (inputs.values, problems) == ({"id": "c", "query": "q", "customer": "c"}, [])
    assert next(iter(inputs.values)) == "id"


@pytest.mark.parametrize("typed", [False, True])
@pytest.mark.parametrize("id_column", ["id", "key"])
def test_an_input_called_id_gets_the_row_id_with_its_type(typed: bool, id_column: str) -> None:
    form = Form.from_parameters({"user_input_form": [{"number": {"variable": "id", "label": "id", "required": True}}]})
    bound = bind(form, id_column, typed=typed, id_column=id_column)
    assert bound.problems == ()
    assert bound.inputs(Row(1, 2, "12", {id_column: "12"}))[0].values["id"] == 12
    assert bound.inputs(Row(1, 2, "x", {id_column: "x"}))[1][0].kind == "not_a_number"


def test_without_a_form_every_cell_is_sent_as_it_is() -> None:
    form = Form.absent()
    assert one(form, a="", b=" 1,5 ") == ({"id": "r", "a": "", "b": " 1,5 "}, [])
    assert one(form, typed=True, a=None, b=[1]) == ({"id": "r", "a": None, "b": [1]}, [])
    assert bind(form, "id", "a").warnings == ()


def test_an_app_without_inputs_and_an_answer_without_a_form() -> None:
    empty = Form.from_parameters(body("19d-parameters-W7-chatflow"))
    assert empty.known
    assert empty.variables == ()
    assert not Form.from_parameters({}).known


def test_keys_of_json_lines_may_vary() -> None:
    bound = bind(ECHO, "id", typed=True)
    assert bound.problems == ()
    assert bound.inputs(Row(1, 1, "a", {"id": "a", "query": "q", "n": 1}))[1] == []
    assert bound.inputs(Row(2, 2, "b", {"id": "b", "n": 1}))[1][0].kind == "required"


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from(["query", "language", "n", "tone", "flag", "meta", "more"]), st.text(max_size=6))
)
def test_any_cells_give_inputs_or_problems(cells: dict[str, str]) -> None:
    values, problems = one(ECHO, False, **cells)
    assert values["id"] == "r"
    assert all(problem.line == 2 and problem.column in cells and problem.id == "r" for problem in problems)
    if not problems:
        json.dumps(values, allow_nan=False).encode()
        assert set(values) - {"id"} <= set(cells)
        assert {key for key, cell in cells.items() if cell.strip()} <= set(values)
