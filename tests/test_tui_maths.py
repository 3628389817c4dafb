"""Formulas as text. A value must never change on the way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from r1local.tui.text.maths import BOX, plain

CASES = {
    r"\boxed{132}": f"{BOX[0]}132{BOX[1]}",
    r"x = \boxed{\dfrac{3}{4}}": f"x = {BOX[0]}3/4{BOX[1]}",
    # fractions
    r"\frac{a}{b}": "a/b",
    r"\frac{a+b}{2}": "(a+b)/2",
    r"\frac{1}{2a}": "1/(2a)",
    r"\frac{a}{bc}": "a/(bc)",
    r"\frac{2}{x}y": "(2/x)y",
    r"x\frac{a}{b}": "x(a/b)",
    r"1/\frac{a}{b}": "1/(a/b)",
    r"\frac{\frac{a}{b}}{c}": "(a/b)/c",
    r"\frac{a}{b}^2": "(a/b)²",
    r"\left(\frac{1}{2}\right)^{10}": "(1/2)¹⁰",
    r"-\frac{-1}{-2}": "-(-1/(-2))",
    r"2\frac{1}{2}": "2 1/2",
    r"\frac12": "1/2",
    r"\frac{12}{3}\times\frac{1}{4}": "12/3 × 1/4",
    r"\frac{dy}{dx}": "dy/dx",
    r"\frac{n(n+1)}{2}": "n(n+1)/2",
    r"\frac{5!}{3!2!}": "5!/(3!2!)",
    r"\frac{x^2}{y_1}": "x²/y₁",
    r"\dfrac{-b \pm \sqrt{b^2-4ac}}{2a}": "(-b ± √(b²-4ac))/(2a)",
    r"\binom{n}{k}": "C(n, k)",
    # roots
    r"\sqrt{2}": "√2",
    r"\sqrt 2": "√2",
    r"\sqrt{2x}": "√(2x)",
    r"\sqrt{2}x": "√(2)x",
    r"\sqrt{a}^2": "(√a)²",
    r"\sqrt[3]{8}": "∛8",
    r"\sqrt[n]{x+1}": "ⁿ√(x+1)",
    # above and below
    r"x^2 + y_i": "x² + yᵢ",
    r"x^10": "x¹⁰",
    r"x^{n+1}": "xⁿ⁺¹",
    r"2^{-1}": "2⁻¹",
    r"x^{1/2}": "x^(1/2)",
    r"e^{i\pi}": "e^(iπ)",
    r"a^{b^c}": "a^(bᶜ)",
    r"x^*y": "x^*y",
    r"90^\circ": "90°",
    r"v_{\text{max}}": "vₘₐₓ",
    r"v_{\text{body}}": "v_body",
    r"\sum_{i=1}^{n} i^2": "∑ᵢ₌₁ⁿ i²",
    r"\int_0^1 x\,dx": "∫₀¹ x dx",
    r"\lim_{x \to 0} f(x)": "lim_(x → 0) f(x)",
    # signs
    r"3 \times 4 \cdot 5 \leq 7": "3 × 4 · 5 ≤ 7",
    r"3\times4": "3 × 4",
    r"2\pi r": "2πr",
    r"\alpha\beta\Omega": "αβΩ",
    r"\Delta x \to 0": "Δx → 0",
    r"x \in \mathbb{R}": "x ∈ ℝ",
    r"a \not= b": "a ≠ b",
    r"7 \equiv 1 \pmod{3}": "7 ≡ 1 (mod 3)",
    r"\sin^2\theta + \cos^2\theta = 1": "sin²θ + cos²θ = 1",
    r"\sin\theta": "sin θ",
    r"\log_2 8 = 3": "log₂ 8 = 3",
    r"\angle ABC = 60^{\circ}": "∠ABC = 60°",
    r"\{1,2,3\}": "{1,2,3}",
    r"\left\{ x \mid x > 0 \right\}": "{ x ∣ x > 0 }",
    r"50\%": "50%",
    r"100{,}000": "100,000",
    r"0.\overline{142857}": "0.1̅4̅2̅8̅5̅7̅",
    r"\vec{v}": "v⃗",
    r"\vec{AB}": "vec(AB)",
    r"\text{if } x>0": "if x > 0",
    # several rows
    r"\begin{aligned} a &= b + c \\ &= d \end{aligned}": "a = b + c\n= d",
    r"a \\[4pt] b": "a\nb",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": "(1 2; 3 4)",
    r"\begin{cases} x & \text{if } x \geq 0 \\ -x & \text{otherwise} \end{cases}": "{ x if x ≥ 0; -x otherwise",
    # not known, not finished
    r"\foo{bar} \baz": r"\foo{bar} \baz",
    r"\frac{a}{": "a/",
    r"\boxed{13": f"{BOX[0]}13{BOX[1]}",
    r"x^": "x",
    r"": "",
}


@pytest.mark.parametrize(("latex", "text"), CASES.items(), ids=list(CASES))
def test_formulas(latex: str, text: str) -> None:
    assert plain(latex) == text


@given(st.text(alphabet="\\{}[]^_&$ab1+-=/ \n", max_size=60) | st.text(max_size=30))
def test_anything_comes_back(latex: str) -> None:
    plain(latex)


@given(
    st.lists(st.sampled_from([r"\frac", r"\sqrt", r"\sqrt[", "{", "}", "^", "_", r"\begin", r"\end", r"\text", "x"]))
)
def test_unbalanced_formulas_come_back(tokens: list[str]) -> None:
    plain("".join(tokens))


@pytest.mark.parametrize("piece", [r"\frac{", "x^", r"\begin{a}", r"\sqrt[", "{", r"\left("])
def test_deep_formulas_end(piece: str) -> None:
    plain(piece * 500)


@given(st.text(alphabet="abcxyz0123456789 +-=()", max_size=40))
def test_what_is_no_latex_stays(text: str) -> None:
    assert plain(text).replace(" ", "") == text.replace(" ", "")
