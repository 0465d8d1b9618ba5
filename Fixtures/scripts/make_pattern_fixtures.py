"""Makes Fixtures/patterns/cases.json: what Python's re answers for patterns and module names.

Usage: python make_pattern_fixtures.py [OUTPUT]   (Python 3.11)

Each case: pattern, and either "error": true or "matches", a list of [subject, fullmatch, match].
"""

import json
import pathlib
import random
import re
import sys
import warnings

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "patterns")
warnings.simplefilter("ignore")

SUBJECTS = [
    "model.layers.0.self_attn.q_proj", "model.layers.10.mlp.up_proj", "lm_head", "transformer.h.3.attn.c_attn", "q_proj",
    "model.language_model.layers.2.mlp.experts.11.w1", "a", "aa", "ab", "abab", "", "x{2}", "a-b", "[a]", "é.proj", "٣",
    "a\n", "a b", "A.B", "layers.1", "layers.11", "b]", "a:b", "\t", "x{,2}", "xx", "aaa", "a.b.c",
]

PATTERNS = [
    r".*\.q_proj", r".*(q|k|v)_proj", r".*\.layers\.(0|10)\..*", r"model\.layers\.\d+\.(?:self_attn|mlp)\.\w+_proj",
    r"(?!.*mlp).*proj", r".*(?<!up)_proj", r"(?i)MODEL.*", r"(?:(?i:MODEL)).*", r"^.*\.mlp\..*$", r"\Amodel.*\Z", r"a\Z",
    r"a$", r"a{2}", r"a{,2}", r"a{1,}", r"x{,2}", r"x\{2\}", r"x{2}", r"x{a}", r"x{", r"a{,}", r"[]a]", r"[^]a]+",
    r"[[:alpha:]]", r"[a\]]", r"[\[a\]]+", r"[[a]+\]", r"b\]", r"(?P<n>a)(?P=n)", r"(a)\1", r"(ab)\1", r"(a)(?(1)b|c)",
    r"(?P<x>a)?(?(x)b|q_proj)", r"a++b", r"(?>a+)b", r"a*+", r"a+?", r"a{2}?", r"a{2}+", r"\d", r"\w+", r"\W", r"\s",
    r"\x61", r"\u0061", r"\U00000061", r"\141", r"\0", r"a\.b\.c", r"[\w.]+", r"[\d.]+", r"[a-z_.0-9]+", r"[^\W\d]+",
    r"a|b|q_proj", r"(|a)", r"", r"()", r"(?#note)a", r"(?s)a.", r"(?m)a$", r"a.", r"\ta?", r"\t", r"a\bb", r"a\b.*",
    r"\Ba", r".*\.(?P<i>\d+)\..*_proj", r"é\.proj", r"[é].*", r".{6}", r"(?:a){2,3}", r"a\-b", r"a\:b", r"a\/b", r"\é.*",
    # Refused by Python, and so by us.
    r"(", r")", r"[", r"[a", r"a**", r"*a", r"+", r"?", r"a{2}{3}", r"a{2}*", r"(?<n>a)", r"(?P<n>a", r"(?P=n)", r"\1",
    r"(?R)", r"(?1)", r"(?&n)", r"(*ACCEPT)a", r"\p{L}", r"\h", r"\R", r"\K", r"\X", r"\Qa\E", r"\C", r"\G", r"\e",
    r"\cA", r"\o{141}", r"\g{1}", r"\k<n>", r"a(?i)", r"(?L)a", r"(?q)a", r"(?", r"(?P", r"(?P>n)", r"(?|a|b)", r"(?'n'a)",
    r"(?<=a*)b", r"[b-a]", r"a{3,2}", r"\x6", r"\u006", r"\U0011000f", r"(?(2)a|b)(c)", r"(?P<1n>a)", r"\8", r"[\8]", "\\",
    r"[\Z]", r"[\A]", r"[\B]", r"(?-i)a", r"(?i-i:a)", r"\z", r"(?i-:a)", r"(?:a", r"a)", r"(?P<n>a)(?P<n>b)",
]


def generated(count):
    """Random combinations of the syntax that users write."""
    random.seed(2026)
    atoms = ["a", "b", r"\.", ".", r"\d", r"\w", "[ab]", "[^a]", "layers", "mlp", "proj", "_", "(a|b)", "(?:ab)", r"\d+",
             "(?!b)", "(?=a)", "x", r"\b", "q_proj", "[0-9]"]
    tails = ["", "", "", "*", "+", "?", "{2}", "{1,2}", "{,2}", "*?", "+?", "??", "{0}"]
    for _ in range(count):
        yield "".join(random.choice(atoms) + random.choice(tails) for _ in range(random.randint(1, 6)))


def answer(pattern):
    try:
        compiled = re.compile(pattern)
    except (re.error, OverflowError):
        return {"pattern": pattern, "error": True}
    return {"pattern": pattern, "matches": [
        [s, compiled.fullmatch(s) is not None, compiled.match(s) is not None] for s in SUBJECTS]}


def main():
    assert sys.version_info[:2] == (3, 11)
    OUT.mkdir(parents=True, exist_ok=True)
    cases = [answer(p) for p in PATTERNS + sorted(set(generated(400)))]
    text = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    (OUT / "cases.json").write_text("[\n" + text + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
