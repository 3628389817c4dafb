"""What LaTeX's commands look like in a terminal."""

from __future__ import annotations

_LETTERS = """
alpha α beta β gamma γ delta δ epsilon ε varepsilon ε zeta ζ eta η theta θ vartheta ϑ iota ι kappa κ lambda λ mu μ nu ν
xi ξ pi π varpi ϖ rho ρ varrho ϱ sigma σ varsigma ς tau τ upsilon υ phi φ varphi φ chi χ psi ψ omega ω Gamma Γ Delta Δ
Theta Θ Lambda Λ Xi Ξ Pi Π Sigma Σ Upsilon Υ Phi Φ Psi Ψ Omega Ω aleph ℵ beth ℶ ell ℓ hbar ℏ Re ℜ Im ℑ wp ℘ partial ∂
nabla ∇ infty ∞ emptyset ∅ varnothing ∅ forall ∀ exists ∃ nexists ∄ neg ¬ lnot ¬ angle ∠ triangle △ square □ Box □
blacksquare ■ qed ■ degree ° circ ° prime ′ checkmark ✓ dagger † star ⋆ bullet • sum ∑ prod ∏ coprod ∐ int ∫ iint ∬
iiint ∭ oint ∮ bigcup ⋃ bigcap ⋂ bigvee ⋁ bigwedge ⋀ bigoplus ⨁ bigotimes ⨂ ldots … dots … cdots ⋯ dotsc … dotsb ⋯
vdots ⋮ ddots ⋱ langle ⟨ rangle ⟩ lfloor ⌊ rfloor ⌋ lceil ⌈ rceil ⌉ lvert | rvert | vert | lVert ‖ rVert ‖ Vert ‖
lbrace { rbrace } lbrack [ rbrack ] backslash \\ top ⊤ bot ⊥ therefore ∴ because ∵ pounds £ euro € S § P ¶ imath ı
"""
_RELATIONS = """
times × cdot · div ÷ pm ± mp ∓ ast ∗ leq ≤ le ≤ leqslant ≤ geq ≥ ge ≥ geqslant ≥ ll ≪ gg ≫ neq ≠ ne ≠ approx ≈ equiv ≡
sim ∼ simeq ≃ cong ≅ propto ∝ doteq ≐ prec ≺ succ ≻ preceq ⪯ succeq ⪰ in ∈ ni ∋ notin ∉ subset ⊂ subseteq ⊆ subsetneq ⊊
supset ⊃ supseteq ⊇ cup ∪ cap ∩ setminus ∖ sqcup ⊔ uplus ⊎ land ∧ wedge ∧ lor ∨ vee ∨ oplus ⊕ ominus ⊖ otimes ⊗ odot ⊙
to → rightarrow → longrightarrow ⟶ leftarrow ← gets ← leftrightarrow ↔ Rightarrow ⇒ Longrightarrow ⟹ implies ⟹
Leftarrow ⇐ impliedby ⟸ Leftrightarrow ⇔ Longleftrightarrow ⟺ iff ⟺ mapsto ↦ longmapsto ⟼ hookrightarrow ↪ uparrow ↑
downarrow ↓ Uparrow ⇑ Downarrow ⇓ rightleftharpoons ⇌ xrightarrow → perp ⊥ parallel ∥ nparallel ∦ mid ∣ nmid ∤ models ⊨
vdash ⊢ colon : coloneqq ≔ triangleq ≜ asymp ≍ bmod mod mod mod
"""


def _pairs(table: str) -> dict[str, str]:
    words = table.split()
    return dict(zip(words[::2], words[1::2], strict=True))


def _words(table: str) -> frozenset[str]:
    return frozenset(table.split())


LETTERS = _pairs(_LETTERS)
"""Stand close to their neighbours."""
RELATIONS = _pairs(_RELATIONS)
"""Stand between spaces."""
FUNCTIONS = _words(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh coth log ln lg exp lim limsup liminf max min sup inf "
    "det dim ker deg gcd lcm arg hom Pr sgn"
)
"""Are written as they are called."""
WRAPPERS = _words(
    "text textbf textit textrm texttt textsf mathrm mathbf mathit mathsf mathtt mathcal mathfrak mathscr boldsymbol "
    "bm operatorname mbox hbox emph ensuremath cancel bcancel xcancel overbrace underbrace underline mathop mathbin "
    "mathrel mathord mathstrut"
)
"""Only their argument is seen."""
SPACES = {",": " ", ";": " ", ":": " ", ">": " ", " ": " ", "quad": "  ", "qquad": "  ", "!": "", "enspace": " "}
NOTHING = _words(
    "left right middle big Big bigg Bigg bigl bigr Bigl Bigr biggl biggr Biggl Biggr displaystyle textstyle "
    "scriptstyle limits nolimits hline nonumber notag centering rm bf it small large Large normalsize"
)
DROPPED = _words("color label phantom hphantom vphantom hspace vspace")
"""With their argument."""
PREFIXES = "∠△∇∂∀∃∄¬∫∬∭∮"
"""Stand close to what follows."""
ACCENTS = {"vec": "\u20d7", "hat": "\u0302", "widehat": "\u0302", "bar": "\u0304", "overline": "\u0305",
           "dot": "\u0307", "ddot": "\u0308", "tilde": "\u0303", "widetilde": "\u0303",
           "overrightarrow": "\u20d7"}  # fmt: skip
BRACKETS = {"matrix": ("", ""), "pmatrix": ("(", ")"), "bmatrix": ("[", "]"), "vmatrix": ("|", "|"),
            "Bmatrix": ("{", "}"), "Vmatrix": ("‖", "‖"), "smallmatrix": ("", ""), "array": ("", "")}  # fmt: skip
BLACKBOARD = dict(zip("CHNPQRZEF1", "ℂℍℕℙℚℝℤ𝔼𝔽𝟙", strict=True))
NEGATED = {"=": "≠", "∈": "∉", "≡": "≢", "⊂": "⊄", "⊆": "⊈", "∃": "∄", "∼": "≁", "≈": "≉", "<": "≮", ">": "≯", "∣": "∤",
           "≤": "≰", "≥": "≱", "∥": "∦"}  # fmt: skip
RAISED = dict(
    zip(
        "0123456789+-−=()abcdefghijklmnoprstuvwxyzABDEGHIJKLMNOPRTUVWαβγδεθιφχ′",
        "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁼⁽⁾ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻᴬᴮᴰᴱᴳᴴᴵᴶᴷᴸᴹᴺᴼᴾᴿᵀᵁⱽᵂᵅᵝᵞᵟᵋᶿᶥᵠᵡ′",
        strict=True,
    )
)
LOWERED = dict(
    zip(
        "0123456789+-−=()aehijklmnoprstuvxβγρφχ",
        "₀₁₂₃₄₅₆₇₈₉₊₋₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓᵦᵧᵨᵩᵪ",
        strict=True,
    )
)
