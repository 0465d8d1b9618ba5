"""peft-tool from Python: each function runs the command of its name and returns its answer.

    import peft_tool

    peft_tool.merge("base", "adapter", "out", on_progress=lambda done, total: ...)
    peft_tool.inspect("adapter")["r"]

Operands are paths, or names of repositories. Options are the command's own, with underscores: max_shard_size="5GB",
force=True, ignore_config_key=["one", "two"]. `peft-tool COMMAND --help` lists them. What the command answers with --json
comes back as a dictionary; a failure raises `Error` with the command's own sentence.
"""

from ._run import Error, binary, run, version

__all__ = [
    "Error", "binary", "combine", "convert", "count", "diff", "extract", "fix_config", "generate", "init", "inspect",
    "merge", "merge_models", "perplexity", "rename_keys", "repair_metadata", "resize", "run", "slim", "to_lora", "train",
    "tree", "unmerge", "validate", "verify", "version",
]


def merge(base, *adapters_and_out, on_progress=None, **options):
    """merge(BASE, ADAPTER, ..., OUT): folds adapters into their base. "adapter:0.5" gives one a weight."""
    return run("merge", base, *adapters_and_out, on_progress=on_progress, **options)


def unmerge(merged, *adapters_and_out, on_progress=None, **options):
    """unmerge(MERGED, ADAPTER, ..., OUT): takes merged adapters out of a model again."""
    return run("unmerge", merged, *adapters_and_out, on_progress=on_progress, **options)


def verify(base, *adapters_and_merged, **options):
    """verify(BASE, ADAPTER, ..., MERGED): "agree" of the answer says whether MERGED is the merge of the others."""
    return run("verify", base, *adapters_and_merged, **options)


def inspect(adapter, **options):
    """inspect(ADAPTER, stats=True, base=DIR, ...): what an adapter holds."""
    return run("inspect", adapter, **options)


def validate(path, **options):
    """validate(PATH): "valid" and "findings" say what is wrong with an adapter, a model or an index."""
    return run("validate", path, **options)


def count(base, adapter, **options):
    """count(BASE, ADAPTER): trainable parameters as PEFT counts them."""
    return run("count", base, adapter, **options)


def init(base, config, out, **options):
    """init(BASE, CONFIG, OUT, seed=0): makes a fresh adapter from an adapter_config.json."""
    return run("init", base, config, out, **options)


def diff(a, b, **options):
    """diff(A, B, tolerance=1e-6): "agree" and "tensors" compare two checkpoints."""
    return run("diff", a, b, **options)


def convert(model, out, on_progress=None, **options):
    """convert(MODEL, OUT): writes a checkpoint or an adapter as safetensors."""
    return run("convert", model, out, on_progress=on_progress, **options)


def combine(*adapters_and_out, **options):
    """combine(ADAPTER, ..., OUT, rank=N): one adapter of several. "adapter:0.5" gives one a weight."""
    return run("combine", *adapters_and_out, **options)


def resize(adapter, out, **options):
    """resize(ADAPTER, OUT, rank=N): gives an adapter another rank."""
    return run("resize", adapter, out, **options)


def to_lora(adapter, out, **options):
    """to_lora(ADAPTER, OUT, rank=N, base=DIR): a LoRA of an adapter of any method."""
    return run("to-lora", adapter, out, **options)


def extract(base, finetuned, out, **options):
    """extract(BASE, FINETUNED, OUT, rank=N): the difference of two models as a LoRA."""
    return run("extract", base, finetuned, out, **options)


def merge_models(recipe, out, on_progress=None, **options):
    """merge_models(RECIPE, OUT): one model of several by a recipe of mergekit's form."""
    return run("merge-models", recipe, out, on_progress=on_progress, **options)


def slim(adapter, out, **options):
    """slim(ADAPTER, OUT, base=DIR): leaves out of an adapter what its base has itself."""
    return run("slim", adapter, out, **options)


def rename_keys(adapter, out, **options):
    """rename_keys(ADAPTER, OUT, base=DIR): gives an adapter's modules the names that they have in a base."""
    return run("rename-keys", adapter, out, **options)


def repair_metadata(file, out, **options):
    """repair_metadata(FILE, OUT): writes a safetensors file with the metadata that loaders ask for."""
    return run("repair-metadata", file, out, **options)


def fix_config(adapter, out, **options):
    """fix_config(ADAPTER, OUT, target_peft="0.13"): a configuration for an earlier release of PEFT."""
    return run("fix-config", adapter, out, **options)


def generate(model, prompt, **options):
    """generate(MODEL, PROMPT, adapter=[...], max_new_tokens=100): lets a model go on from a text."""
    return run("generate", model, prompt=prompt, **options)


def perplexity(model, file, **options):
    """perplexity(MODEL, FILE): how well a model foretells a text."""
    return run("perplexity", model, file, **options)


def tree(model, *adapter, **options):
    """tree(MODEL, [ADAPTER]): the text that PyTorch prints of the model's modules."""
    return run("tree", model, *adapter, **options)["tree"]


def train(*operands, on_progress=None, **options):
    """train(BASE, CONFIG, DATA, OUT, learning_rate=2e-4, ...): trains an adapter."""
    return run("train", *operands, on_progress=on_progress, **options)
