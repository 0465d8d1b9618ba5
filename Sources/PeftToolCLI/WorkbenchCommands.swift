internal import PEFT

/// The commands that make new adapters of adapters.
enum WorkbenchCommands {
  static let decomposersFlag = CommandTable.threadsFlag("modules that are decomposed at once")

  static let all: [Command] = [
    Command(
      name: "resize", summary: "give an adapter another rank",
      operands: [
        Operand(name: "ADAPTER", summary: "directory of a LoRA, or a file in kohya's or another form", isModel: true),
        Operand(name: "OUT", summary: "directory to be made"),
      ],
      flags: RankFlags.all + [
        Flag(
          "as-kohya", "keep one singular value more than the rule says, as kohya's script does",
          detail:
            "sd-scripts' resize_lora.py counts so with --sv-ratio, --sv-cumulative and --sv-fro, its dynamic methods."),
        CommandTable.forceFlag, CommandTable.configKeyFlag, decomposersFlag, CommandTable.jsonFlag,
      ],
      detail: """
        Writes the best approximation of each module's B·A by fewer ranks, computed from QR decompositions and the singular values \
        of a small matrix in f64, or puts zeros beside the factors where the rank grows. alpha changes with the rank, so that the \
        scale stays; ranks that differ go into rank_pattern and alpha_pattern. Prints what is kept and lost of each module's change \
        and of all, the rounding to the tensors' dtype included. Heads, biases and trained tokens are copied. OUT is in PEFT's form, whatever \
        form ADAPTER has; of a file with several parts of a pipeline each gets a directory of its name.
        """,
      run: resizeCommand),
    Command(
      name: "combine", summary: "make one adapter of several",
      operands: [
        Operand(
          name: "ADAPTER", summary: "directory of a LoRA, with :WEIGHT if its change is to be multiplied",
          repeats: true,
          isModel: true, isWeighted: true),
        Operand(name: "OUT", summary: "directory to be made"),
      ],
      flags: CombineFlags.all + RankFlags.all + [
        Flag(
          "plain", "write the form that every server takes",
          detail:
            "One rank everywhere, filled with zeros where a module has less, alpha = rank, no patterns, targets by their last names."
        ),
        Flag(
          "average-saved", "take the weighted mean of heads, biases and trained tokens that several adapters hold",
          detail: "Without it adapters that hold different ones are refused: tensors in full cannot be added.",
          remedy: .averageSaved),
        CommandTable.forceFlag, CommandTable.configKeyFlag, decomposersFlag, CommandTable.jsonFlag,
      ],
      detail: """
        OUT's change of each weight is the sum of the adapters' changes, each times its weight, as in 'combine one two:0.5 out'. \
        Without a rule of ranks the factors are put side by side and nothing is lost but the rounding of scales, which is printed; \
        with one, the sum's best approximation is written, and its error printed by module and in all. Ranks, targets, patterns, \
        rsLoRA and layers may differ; biases, heads, trained tokens and experts are kept. One adapter with weight 1 is copied byte \
        for byte.
        """,
      run: combineCommand),
    Command(
      name: "to-lora", summary: "make a LoRA of an adapter of any method",
      operands: [
        Operand(name: "ADAPTER", summary: "directory of the adapter", isModel: true),
        Operand(name: "OUT", summary: "directory to be made"),
      ],
      flags: RankFlags.all + [
        Flag(
          "base", value: "DIR", "the adapter's base model",
          detail:
            "Needed where the change depends on the weights, as that of DoRA, OFT and IA3 does, or where nothing stored says "
            + "what shape they have.", isModel: true, remedy: .giveBase),
        CommandTable.forceFlag, CommandTable.configKeyFlag, decomposersFlag, CommandTable.jsonFlag,
      ],
      detail: """
        Writes the change that a merge of ADAPTER would make as B·A of each module, alpha = rank. Without a rule of ranks a change \
        that is a product of known factors is kept whole; a change that may have any rank needs one, and the error of its best \
        approximation is printed by module and in all. Heads, saved modules, biases and trained tokens are copied.
        """,
      run: toLoRACommand),
    extractEntry,
  ]
}
