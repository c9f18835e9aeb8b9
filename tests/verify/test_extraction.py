"""Where the answer is in a response, for every way of extraction."""

from __future__ import annotations

import time

import pytest

from credo.verify.extraction import Extraction, concluded, extract, last_boxed, last_tagged, stated_answer

AUTO = Extraction()


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"so \boxed{5}", "5"),
        (r"\boxed{1} is wrong, \boxed{2}", "2"),
        (r"\fbox{a} and then", "a"),
        (r"\boxed {\frac{1}{2}}.", r"\frac{1}{2}"),
        (r"\boxed{\boxed{7}}", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{4} and \boxed{4 + ", "4"),
        (r"}} \boxed{3} {", "3"),
        (r"\boxed{unclosed", None),
        ("no box", None),
        (r"\boxed{}", ""),
    ],
)
def test_last_box(text: str, content: str | None):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{-2} and \boxed{1}", "-2, 1"),
        (r"$\boxed{1}$, $\boxed{2}$ or $\boxed{3}$", "1, 2, 3"),
        (r"$\boxed{1} \quad \text{and} \quad \boxed{2}$", "1, 2"),
        (r"\boxed{0} first. \boxed{1}, \boxed{2}", "1, 2"),
        (r"\boxed{6}, \boxed{6}", "6"),
        (r"$\boxed{3}$ cats and $\boxed{4}$ dogs", "3, 4"),
        (r"$a = \boxed{3}$ and $b = \boxed{4}$", "3, 4"),
        ("\\boxed{3}\n\n\\boxed{4}", "4"),
        (r"\boxed{3} was wrong and so \boxed{4}", "4"),
    ],
)
def test_joined_boxes_are_one_answer(text: str, content: str):
    assert last_boxed(text) == content


@pytest.mark.parametrize(
    ("text", "stated"),
    [
        ("The answer is 5.", "5"),
        ("The answer is 5. It took 3 steps.", "5"),
        ("the answer is 3. No: the answer is 4", "4"),
        ("Answer: $x = 2$ metres.", "$x = 2$"),
        ("The answers are $3$, $4$ and $5$.", "$3$, $4$ and $5$"),
        ("Final Answer: Ann began to grow the plant 3 hours ago. I hope it is correct.", "3"),
        ("Final Answer: Ann began at 3 and stopped at 4 today.", "Ann began at 3 and stopped at 4 today"),
        ("It costs 3.\nA: 20", "20"),
        ("**Answer:** 12", "12"),
        ("Final Answer: **12**", "12"),
        ("The answer is:\n\\[\n\\frac{1}{2}\n\\]\nDone.", "\\[\n\\frac{1}{2}\n\\]"),
        ("Final answer: The volume of the box is 120. I hope so.", "120"),
        ("The answer is $10,455. She paid $5.", "$10,455"),
        ("The answers are 3.5 and 4.5\nbye", "3.5 and 4.5"),
        ("nothing said", None),
        ("the answer is", None),
    ],
)
def test_stated_answer(text: str, stated: str | None):
    assert stated_answer(text) == stated


@pytest.mark.parametrize(
    ("text", "conclusion"),
    [
        ("Thus the sum of \\(a\\) and \\(b\\) is **7**, as both are odd.", "7"),
        ("So the chance is about \\(1/5\\). This is rough.", "\\(1/5\\)"),
        ("Hence, $f(n) = 3n$ for all n.", "$f(n) = 3n$"),
        ("The price increases by 20%.", "20%"),
        ("The vertex occurs at \\(x = 4\\).", "\\(x = 4\\)"),
        ("So the angle is = 45°.", "45°"),
        ("The degree is 2 * 3 or more", None),
        ("When $T = 3$ we stop", None),
        ("So $x = 3$ is not a solution", None),
        ("x^2 + 1", "x^2 + 1"),
        ("nothing here to see", None),
    ],
)
def test_conclusions(text: str, conclusion: str | None):
    assert concluded(text) == conclusion


def test_last_closed_tag():
    assert last_tagged("<answer> 1 </answer> <answer>2</answer>") == "2"
    assert last_tagged("<answer>1</answer> <answer>2") == "1"
    assert last_tagged("<answer>a <answer>b</answer>") == "b"
    assert last_tagged("</answer><answer>") is None


@pytest.mark.parametrize(
    ("response", "kind", "answer"),
    [
        (r"the answer is 4, so \boxed{5}", "math", "5"),
        ("the answer is 4", "math", "4"),
        ("4", "math", "4"),
        ("perhaps 4 then", "math", None),
        (r"<answer> 4 </answer> \boxed{5}", "gym", "4"),
        (" 4\n", "gym", "4"),
        (r" \boxed{5} ", "exact", r"\boxed{5}"),
        (" \n", "exact", None),
        ("<answer> </answer>", "gym", None),
    ],
)
def test_auto_suits_the_problem(response: str, kind: str, answer: str | None):
    assert extract(response, kind, AUTO) == answer


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("from 3 to 1,234.50 in all", "1234.50"),
        ("10-5", "5"),
        ("x = -7.", "-7"),
        ("a fifth is .2", ".2"),
        ("no number", None),
    ],
)
def test_last_number(text: str, number: str | None):
    assert extract(text, "exact", Extraction(kind="last_number")) == number


def test_whole_box_tag_and_pattern_do_the_same_for_every_kind():
    response = r" #### 7 <answer>8</answer> \boxed{9} "
    for kind in ("math", "gym", "exact"):
        assert extract(response, kind, Extraction(kind="whole")) == response.strip()
        assert extract(response, kind, Extraction(kind="boxed")) == "9"
        assert extract(response, kind, Extraction(kind="answer_tag")) == "8"
        assert extract(response, kind, Extraction(kind="regex", pattern=r"#### (\S+)")) == "7"
    assert extract("a1 b2", "exact", Extraction(kind="regex", pattern=r"[a-z]\d")) == "b2"
    assert extract("a1", "exact", Extraction(kind="regex", pattern=r"a(\d)|b(\d)")) == "1"
    assert extract("b1", "exact", Extraction(kind="regex", pattern=r"a(\d)|b(\d)")) is None


def test_a_bad_pattern_is_refused():
    with pytest.raises(ValueError, match=r"verify\.pattern"):
        Extraction(kind="regex", pattern="(")
    with pytest.raises(ValueError, match=r"verify\.pattern"):
        Extraction(kind="regex")
    with pytest.raises(ValueError, match=r"verify\.pattern"):
        Extraction(kind="boxed", pattern="a")


@pytest.mark.parametrize("part", [r"\boxed{", r"\boxed{1},", "}", "answer: ", "answer is ", "$", "<answer>", "1,", "{"])
def test_long_degenerate_responses_cost_little(part: str):
    text = part * (200_000 // len(part))
    started = time.monotonic()
    for kind in ("math", "gym"):
        extract(text, kind, AUTO)
    extract(text, "exact", Extraction(kind="last_number"))
    assert time.monotonic() - started < 5.0
