"""Makes Fixtures/tokenizers: small tokenizers of every kind that is read, and what huggingface/tokenizers makes of a stress corpus.

Usage: python make_tokenizer_fixtures.py [OUTPUT]   (default: ../tokenizers beside this file)

corpus.json holds the texts; each directory a tokenizer.json (or vocab.json and merges.txt), and expected.json with the ids of each
text and the text of those ids, special tokens kept and skipped. Needs tokenizers as the transformers in
requirements.txt brings it, and sentencepiece with protobuf.
"""

import json
import pathlib
import random
import shutil
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

OUT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "tokenizers")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
TRAINING = """The quick brown fox jumps over the lazy dog. It's what they'd said: we'll see, I'm sure you've heard.
def merge(base, adapter):\n    return base + adapter.scale * (adapter.b @ adapter.a)  # 1 2 3 45 678 9012
La corneja negra vuela sobre el río; l'été, où êtes-vous? Größe, Straße, naïve café. Привет, мир! Как дела сегодня?
你好，世界。今天天气很好。こんにちは世界、カタカナ。안녕하세요 세계. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया। 😀😃👍🏽👩‍👩‍👧 🇩🇪 ✈️
SELECT * FROM t WHERE a >= 10 AND b != 'x'; {"key": [1, 2.5, null]}\t<div class="a">&amp;</div>\r\n
""".split("\n") * 4


def corpus():
    texts = [
        "", " ", "  ", "\n", "\t\n  \n", "a", " a", "a ", "Hello, world!", "Hello   world", "   leading and trailing   ",
        "It's they'RE WE'LL i'm 'S ſ's", "don't can't won't", "1234567890 12 345 6789 3.14 1e-5 ½ ² ٣٤٥ Ⅷ", "CamelCaseAndsnake_case",
        "def f(x):\n\treturn x ** 2  # square\n\n\nclass A:\n    pass\n", "a\r\nb\rc\n\r\nd", "tabs\t\tand\x0bother\x0cspace\u00a0\u2003\u3000x",
        "naïve café déjà vu", "nai\u0308ve cafe\u0301 e\u0301\u0323", "Å Å A\u030a ﬁ ﬀ ① ㌔ ｶﾞ", "Привет, мир", "你好，世界！这是测试。", "日本語テキストとひらがな",
        "안녕하세요 \u1112\u1161\u11ab", "שָׁלוֹם עולם", "مرحبا بالعالم ١٢٣", "नमस्ते दुनिया क्षि", "ไทยภาษา", "😀 😃😄 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇫🇷 ❤️ ✈️ 1️⃣", "\u200b\u200dzero\ufeffwidth\u2060",
        "control \x01\x02\x7f\x1b[0m \x85 chars", "<s>hello</s>", "<|im_start|>user\nhi<|im_end|>", "a<|im_end|> b <|pad|>c  <mask>  d", "<unk> [UNK] <0x41>", "▁already ▁▁marked",
        "end with newline\n", "emoji in w😀rd", "\U0001F9D1\u200D\U0001F4BB codes", "x" * 300, " " * 70 + "y", "\n" * 9, "!?!?...---___", "https://example.org/a?b=c&d=%20#e", "𝕳𝖊𝖑𝖑𝖔 𝟘𝟙",
        "Straße Stra ße xab abab a\u0300b",
        "word<sw>inside <sw> alone", "İstanbul ǅ ß ẞ", "\ud7a3\uac00\u0f71", "null \x00 byte",
    ]
    random.seed(0)
    scalars = [*range(0x20, 0x7f), *range(0xa0, 0x250), *range(0x370, 0x500), *range(0x4e00, 0x4e80), *range(0x1f600, 0x1f640), 10, 9, 32, 32, 32, 0x301, 0x200d, 0xfe0f]
    for _ in range(40):
        texts.append("".join(chr(random.choice(scalars)) for _ in range(random.randint(1, 60))))
    return texts


def trained(name, tokenizer, kind="bpe", size=420, special=("<s>", "</s>", "<unk>"), added=(), **settings):
    if kind == "bpe":
        trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=list(special), show_progress=False, **settings)
    else:
        trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=list(special), unk_token="<unk>", show_progress=False, **settings)
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens(list(added) or [AddedToken("<|pad|>", lstrip=True), AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False), AddedToken("<sw>", single_word=True)])
    return name, tokenizer


def tokenizers():
    alphabet = pre_tokenizers.ByteLevel.alphabet()

    def byte_level(name, pre, normalizer=None, post=None, **settings):
        tokenizer = Tokenizer(models.BPE(**settings))
        if normalizer:
            tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre
        tokenizer.decoder = decoders.ByteLevel()
        if post:
            tokenizer.post_processor = post
        return trained(name, tokenizer, initial_alphabet=alphabet)

    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    yield byte_level("gpt2", pre_tokenizers.ByteLevel(add_prefix_space=False), post=processors.ByteLevel(trim_offsets=False))
    yield byte_level("roberta", pre_tokenizers.ByteLevel(add_prefix_space=True), post=processors.RobertaProcessing(("</s>", 1), ("<s>", 0)))
    yield byte_level("llama3", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(LLAMA3), "isolated"), plain]), ignore_merges=True,
                     post=processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 0)])]))
    yield byte_level("qwen", pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN), "isolated"), plain]), normalizer=normalizers.NFC())
    yield byte_level("smollm", pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]))
    yield byte_level("nfkc-lower", pre_tokenizers.ByteLevel(add_prefix_space=False), normalizer=normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Strip()]))

    def pieces(name, normalizer, pre, decoder, kind="bpe", post=True, model=None, **settings):
        tokenizer = Tokenizer(model or models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        if normalizer:
            tokenizer.normalizer = normalizer
        if pre:
            tokenizer.pre_tokenizer = pre
        tokenizer.decoder = decoder
        if post:
            tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A $B", [("<s>", 0), ("</s>", 1)])
        special = ["<s>", "</s>", "<unk>"] + ([f"<0x{byte:02X}>" for byte in range(256)] if settings.pop("bytes", True) else [])
        return trained(name, tokenizer, kind, size=settings.pop("size", 700), special=special, **settings)

    spm = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    gemma = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    yield pieces("llama2", normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, spm)
    yield pieces("mistral", None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False), spm)
    yield pieces("gemma", normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), gemma)
    yield pieces("no-bytes", None, pre_tokenizers.Metaspace(), decoders.Metaspace(), bytes=False, size=300,
                 model=models.BPE(unk_token="<unk>", fuse_unk=True))
    yield pieces("unknown-apart", None, pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(), pre_tokenizers.Digits()]),
                 decoders.Fuse(), bytes=False, size=300, model=models.BPE(unk_token="<unk>"))
    yield pieces("unigram", None, pre_tokenizers.Metaspace(), decoders.Metaspace(), kind="unigram", bytes=False, size=400, model=models.Unigram())
    yield pieces("unigram-nfkc", normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]),
                 pre_tokenizers.Metaspace(prepend_scheme="always"), decoders.Metaspace(), kind="unigram", bytes=False, size=400, model=models.Unigram())


def sentence_piece():
    """A Unigram model by SentencePiece with rules of its own, as transformers converts one."""
    import io

    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    rules = [("\ufb01", "fi"), ("\u212b", "\u00c5"), ("A\u030a", "\u00c5"), ("①", "1"), ("㌔", "キロ"), ("\u00e9", "e\u0301"), ("\u00a0", " "), ("\t", " "),
             ("\u200b", ""), ("Straße", "Strasse"), ("𝟘", "0"), ("\u00ed", "i"), ("ab", "c")]
    path = OUT / "rules.tsv"
    path.write_text("".join(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n" for a, b in rules))
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in TRAINING if line), model_writer=stream, vocab_size=260, model_type="unigram",
        normalization_rule_tsv=str(path), hard_vocab_limit=False, minloglevel=2)
    path.unlink()
    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString(stream.getvalue())
    tokenizer = Tokenizer(models.Unigram([(piece.piece, piece.score) for piece in model.pieces], unk_id=0))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap),
                                                 normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<s>", "</s>"])
    return "unigram-precompiled", tokenizer


def expected(tokenizer, texts):
    results = []
    for text in texts:
        ids = tokenizer.encode(text).ids
        results.append({"ids": ids, "bare": tokenizer.encode(text, add_special_tokens=False).ids,
                        "text": tokenizer.decode(ids, skip_special_tokens=False), "plain": tokenizer.decode(ids, skip_special_tokens=True)})
    return results


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    texts = corpus()
    (OUT / "corpus.json").write_text(json.dumps(texts, ensure_ascii=True))
    for name, tokenizer in [*tokenizers(), sentence_piece()]:
        root = OUT / name
        root.mkdir()
        tokenizer.save(str(root / "tokenizer.json"), pretty=False)
        # Halves of characters, one id each.
        cut = [{"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=False)} for ids in
               ([i] for i in range(0, tokenizer.get_vocab_size(), 7))]
        (root / "expected.json").write_text(json.dumps({"texts": expected(tokenizer, texts), "cut": cut}, ensure_ascii=True))
        if name == "gpt2":
            other = OUT / "gpt2-two-files"
            other.mkdir()
            bare = Tokenizer(models.BPE())
            bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
            bare.decoder = decoders.ByteLevel()
            bare.train_from_iterator(TRAINING, trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
            bare.model.save(str(other))
            (other / "expected.json").write_text(json.dumps({"texts": expected(bare, texts), "cut": []}, ensure_ascii=True))


if __name__ == "__main__":
    main()
