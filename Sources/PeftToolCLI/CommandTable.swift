internal import PEFT

/// Every command and flag. Help, man page, completions and did-you-mean are made from this table.
enum CommandTable {
  static let version = Provenance.version

  static let commands: [Command] = mainCommands + WorkbenchCommands.all + shellCommands

  private static let mainCommands: [Command] = [
    Command(
      name: "merge", summary: "fold adapters into their base model",
      operands: [
        Operand(name: "BASE", summary: "directory, index or safetensors file of the base model", isModel: true),
        Operand(
          name: "ADAPTER", summary: "directory of an adapter, with :WEIGHT if its change is to be multiplied",
          repeats: true, isModel: true, isWeighted: true),
        Operand(name: "OUT", summary: "directory to be made"),
      ],
      flags: mergeFlags,
      detail: """
        Writes OUT = BASE with W + scale·B·A in the place of each weight W that the adapter targets, rounded once to the \
        weight's own dtype. Tensors that are not targeted are copied byte for byte; configuration and tokenizer files are \
        copied, and a tokenizer saved with the adapter wins.

        With several adapters, as in 'merge base one two:0.5 out', their changes are added up in one pass and rounded once.

        Every tensor of an adapter must resolve to exactly one tensor of the base, or nothing is written. OUT appears \
        whole or not at all.
        """,
      run: mergeCommand, isShared: true),
    mergeModelsEntry,
    Command(
      name: "unmerge", summary: "take merged adapters out of a model again",
      operands: [
        Operand(name: "MERGED", summary: "directory, index or safetensors file of the merged model", isModel: true),
        Operand(
          name: "ADAPTER", summary: "directory of an adapter, with :WEIGHT if it was merged with one", repeats: true,
          isModel: true, isWeighted: true),
        Operand(name: "OUT", summary: "directory to be made"),
      ],
      flags: unmergeFlags,
      detail: """
        Writes OUT = MERGED with W - scale·B·A in the place of each weight that the adapter targets. The record in MERGED's \
        metadata decides: an adapter that it does not name, or names with another weight, is refused. If the adapters are all \
        that the last merge added, each element is within one unit in the last place, of the larger of merged and restored \
        weight, of what it was; otherwise the answer says what remains. Without a record nothing is promised.

        What replaces tensors in full, DoRA, and methods whose change depends on the base weight cannot be taken out: the \
        base is needed for that.
        """,
      run: unmergeCommand),
    Command(
      name: "verify", summary: "check that a model is the merge that it claims to be",
      operands: [
        Operand(name: "BASE", summary: "directory, index or safetensors file of the base model", isModel: true),
        Operand(
          name: "ADAPTER", summary: "directory of an adapter, with :WEIGHT if it was merged with one", repeats: true,
          isModel: true, isWeighted: true),
        Operand(name: "MERGED", summary: "directory, index or safetensors file of the merged model", isModel: true),
      ],
      flags: [
        configKeyFlag, allowMissingFlag, allowUntargetedFlag, allowNonFiniteFlag,
        Flag(
          "as-peft", "allow for the roundings of PEFT's own merge",
          detail: "PEFT rounds some changes to the weight's dtype before it adds them, and decomposes weights in f32."),
        threadsFlag(),
        reportFlag("write a page: verdict, and how far each tensor is from the merge"), jsonFlag,
      ],
      detail: """
        Computes the merge again, in bounded memory and without writing it, and compares tensor by tensor. Merged tensors may \
        differ by what another order of sums explains: the neighbouring value of a half format, or 1e-6 of the largest \
        magnitude. All others must have the base's bytes. Differences of headers, metadata and config.json are listed; those \
        that change no number begin with "note". Exit code 0 if all agrees, 1 if not.
        """,
      run: verifyCommand),
    Command(
      name: "inspect", summary: "show what an adapter holds",
      operands: [Operand(name: "ADAPTER", summary: "directory of the adapter", isModel: true)],
      flags: [
        Flag(
          "stats", "show the size, effective rank and health of each module's change",
          detail:
            "Reads all values. Of a method whose change depends on the weight, the size is known with --base only; with "
            + "it the size is also shown as a share of the weight's."),
        Flag("base", value: "DIR", "show which tensors of a base the adapter fits, and whether it fits", isModel: true),
        Flag(
          "for", value: "SERVER", "list what keeps vllm, sglang, lorax, llama.cpp, mlx or ollama from serving it",
          detail:
            "Each blocking feature with the command that cures it, as the server's release that is named does it. Exit "
            + "code 1 if there is one.",
          takes: .choice(ServingCheck.Server.allCases.map(\.rawValue))),
        Flag(
          "compare", value: "OTHER", "show how alike the changes of another adapter are, module by module",
          detail:
            "The cosine of the two changes, the norm of their difference as a share of this adapter's, and how far the spaces are "
            + "one that they write to and read from: the mean of cos² over the angles between them, beside what random "
            + "spaces have. A change that depends on the weight is compared with --base only.", isModel: true),
        reportFlag("write a page: verdict, size of the change, singular values, bytes, comparison"),
        jsonFlag,
      ],
      detail:
        "Reads the configuration and the header of the weights; the weights themselves only for --stats, --compare and "
        + "--report.",
      run: inspectCommand),
    Command(
      name: "validate", summary: "find what is wrong with an adapter, a model or an index",
      operands: [
        Operand(
          name: "PATH", summary: "directory of an adapter or a model, an index, or a safetensors file", isModel: true)
      ],
      flags: [
        Flag("headers-only", "look at headers and configuration, not at values"), jsonFlag,
      ],
      detail: """
        One line a finding: what kind, where, and the facts. Adapters: no or empty tensors, values that are not finite, \
        lora_B all zero, A without B, ranks that differ from the configuration, names with parts that wrappers left, \
        targets that no module bears (of which only the base could say that they are missing). Models: damaged headers, \
        missing shards, an index that does not agree with its files, files that no index names. Exit code 0 if nothing is \
        wrong, 1 otherwise.
        """,
      run: validateCommand),
    Command(
      name: "count", summary: "print trainable parameters as PEFT prints them",
      operands: [
        Operand(name: "BASE", summary: "directory, index or safetensors file of the base model", isModel: true),
        Operand(name: "ADAPTER", summary: "directory of an adapter, or an adapter_config.json", isModel: true),
      ],
      flags: [jsonFlag],
      detail: "Tied weights count once and buffers not at all, as in PEFT's print_trainable_parameters.",
      run: countCommand),
    Command(
      name: "init", summary: "make a fresh adapter for a base model",
      operands: [
        Operand(name: "BASE", summary: "directory, index or safetensors file of the base model", isModel: true),
        Operand(name: "CONFIG", summary: "an adapter_config.json"),
        Operand(name: "OUT", summary: "directory to be made"),
      ],
      flags: [
        Flag("seed", value: "N", "seed of the random values", default: "0", takes: .integer(0...Int.max)),
        forceFlag,
        configKeyFlag, jsonFlag,
      ],
      detail: """
        Matches the configuration's targets against the base and writes adapter_config.json, adapter_model.safetensors \
        and README.md. lora_A is kaiming-uniform, lora_B zero: the adapter changes nothing until it is trained.
        """,
      run: initCommand),
    Command(
      name: "diff", summary: "compare two checkpoints tensor by tensor",
      operands: [
        Operand(name: "A", summary: "directory, index or safetensors file", isModel: true),
        Operand(name: "B", summary: "directory, index or safetensors file", isModel: true),
      ],
      flags: [
        Flag(
          "tolerance", value: "X", "let values differ by X times the tensor's largest magnitude", default: "0"),
        reportFlag("write a page: verdict, and where the checkpoints differ by how much"), jsonFlag,
      ],
      detail: "Exit code 0 if the checkpoints agree, 1 if they differ. Memory does not grow with the checkpoints.",
      run: diffCommand),
    Command(
      name: "convert", summary: "write an adapter in another form, or a checkpoint as safetensors",
      operands: [
        Operand(
          name: "MODEL", summary: "directory, index, .bin or safetensors file; or an adapter in any known form",
          isModel: true),
        Operand(name: "OUT", summary: "directory to be made, or a file for a form of one file", isOptional: true),
      ],
      flags: [
        Flag(
          "to", value: "FORM", "the form of an adapter: peft, mlx, gguf, kohya, diffusers or comfy",
          detail:
            "The form of MODEL is recognised. gguf, kohya, diffusers and comfy are one file: OUT may name it, ending in .gguf "
            + "or .safetensors.",
          takes: .choice(AdapterDialect.allCases.map(\.rawValue))),
        Flag(
          "base", value: "DIR", "the adapter's model, for names and the order of rows; config.json is enough",
          isModel: true, needs: "to"),
        Flag(
          "check", "list what the form cannot carry, with the command that cures it, and write nothing", needs: "to"),
        Flag(
          "dtype", value: "TYPE", "write an adapter's values as f32, bf16, f16 or f64", default: "as they are",
          takes: .choice(["f32", "bf16", "f16", "f64"])),
        Flag(
          "image-model", value: "NAME", "sd1, sdxl, sd3 or flux, where the adapter's modules do not tell it",
          takes: .choice(ImageModel.allCases.map(\.rawValue)), needs: "to"),
        Flag(
          "component", value: "PART", "the part of a pipeline that an adapter of PEFT is for, such as unet",
          takes: .choice(["unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"]), needs: "to"),
        forceFlag,
        Flag(
          "max-shard-size", value: "SIZE", "write shards of at most SIZE, such as 5GB",
          default: "the model's own shards"),
        threadsFlag(), jsonFlag,
      ],
      detail: """
        With --to: reads an adapter of PEFT, mlx-lm, llama.cpp, kohya, LyCORIS, diffusers, ComfyUI, XLabs or Black Forest Labs and \
        writes it in another of these forms. What the form cannot carry stops the conversion before anything is written. Tensors \
        keep their bits, unless a scale must be multiplied into them; then the answer says so. An adapter of several parts of a \
        pipeline is a directory for each part in PEFT's form. Exit code 1 if --check finds something.

        Without: reads what torch.save wrote without running anything in it: only tensors and plain containers can be built, \
        and a name or instruction that a state dict does not need is refused. Tensors that the file holds under a second name \
        are written once; the names that are left out are listed. An adapter of PEFT, of whatever method, is written as PEFT \
        saves it, without what wrappers such as torch.compile left in its names.
        """,
      run: convertCommand),
    slimEntry, renameKeysEntry, repairMetadataEntry, fixConfigEntry,
    Command(
      name: "generate", summary: "let a model go on from a text",
      operands: [modelOperand],
      flags: [
        adapterFlag,
        Flag("prompt", letter: "p", value: "TEXT", "the text to go on from; - reads it from standard input"),
        Flag(
          "prompts", value: "FILE", "a JSONL file of prompts; writes one JSON document a line",
          detail:
            "Each line is a string, or an object with \"prompt\", or with \"messages\" for --chat. With --chat a line may "
            + "also have \"tools\", \"documents\", and variables of the chat template by their names.",
          excludes: "prompt"),
        Flag("chat", "put the prompt into the model's chat template as a user's message"),
        Flag("system", value: "TEXT", "with --chat: a system message before it", needs: "chat"),
        Flag(
          "chat-argument", value: "NAME=VALUE", "with --chat: a variable of the chat template",
          detail: chatArgumentDetail + " A line's own value wins.", repeats: true, needs: "chat"),
        Flag(
          "continue-final-message", "with --chat: go on with the last message in the place of a new answer",
          detail: "The text of the last message is left open, as transformers' continue_final_message leaves it.",
          needs: "chat"),
      ] + generationFlags(newTokens: GenerationRequest.newTokens),
      detail: """
        Runs on the CPU; PEFT_THREADS says on how many threads. Weights stay in their stored dtype, and an adapter stays apart \
        from them where it is a LoRA. Several adapters are added, each with its weight.
        """,
      run: generateCommand, needsOne: ["prompt", "prompts"], otherwise: "'peft-tool chat MODEL' is a conversation."),
    Command(
      name: "chat", summary: "talk with a model",
      operands: [modelOperand],
      flags: [
        adapterFlag, Flag("system", value: "TEXT", "a system message before the conversation"),
        Flag(
          "chat-argument", value: "NAME=VALUE", "a variable of the chat template", detail: chatArgumentDetail,
          repeats: true),
      ] + generationFlags(newTokens: Chat.newTokens),
      detail: """
        Each line of standard input is a message, on a terminal and from a pipe; the model's chat template puts the conversation \
        into words. Adapters go by the last part of their path. Lines with a slash at their beginning are for the program:

        \(Chat.Order.paragraphs)

        Ctrl-C ends an answer, and twice the program. From a pipe the first failure ends it.
        """,
      run: chatCommand),
    Command(
      name: "perplexity", summary: "say how well a model foretells a text",
      operands: [
        modelOperand, Operand(name: "FILE", summary: "text in UTF-8, or - for standard input", mayBeInput: true),
      ],
      flags: [
        adapterFlag,
        Flag("window", value: "N", "tokens that are read at once", default: "1024, or the model's context"),
        jsonFlag,
      ],
      detail: "For a quick look before and after a merge. The first token of each window is given.",
      run: perplexityCommand),
    Command(
      name: "tree", summary: "print a model's modules as PyTorch does",
      operands: [
        modelOperand, Operand(name: "ADAPTER", summary: "adapter to put on it", isOptional: true, isModel: true),
      ],
      flags: [jsonFlag], detail: "With an adapter: the tree that PEFT's model has.", run: treeCommand),
    trainCommandEntry,
  ]

  private static let shellCommands: [Command] = [
    Command(
      name: "completions", summary: "print a completion script for a shell",
      operands: [
        Operand(name: "SHELL", summary: "bash, zsh or fish", choice: Completions.Shell.allCases.map(\.rawValue))
      ], flags: [],
      detail: "For example: peft-tool completions bash > /etc/bash_completion.d/peft-tool",
      run: completionsCommand),
    Command(
      name: "man", summary: "print the man page", operands: [], flags: [],
      detail: "For example: peft-tool man | man -l -", run: manCommand),
  ]
}
