internal import PEFT

/// Options and operands that several commands have, or that say how a merge is written and a text is made.
extension CommandTable {
  static let commonFlags: [Flag] = [
    Flag("offline", "download nothing: repositories must be in the cache", remedy: .allowDownloads),
    Flag("quiet", letter: "q", "say nothing but the answer and failures"),
    Flag(
      "progress", value: "HOW", "bar, json or none: how progress is shown on standard error",
      detail: "json writes a line such as {\"progress\":{\"done\":1,\"total\":2}} some times a second.",
      default: "bar on a terminal, none elsewhere", takes: .choice(["bar", "json", "none"])),
    Flag("help", letter: "h", "show this help"),
    Flag("version", letter: "V", "show the version"),
  ]

  static func threadsFlag(_ summary: String = "tasks at work at once") -> Flag {
    Flag("threads", value: "N", summary, default: "2", takes: .integer(1...256))
  }

  static let forceFlag = Flag(
    "force", letter: "f", "replace OUT if it exists and is not empty", remedy: .replaceOutput)

  static let jsonFlag = Flag("json", "write the answer as one JSON document")

  /// - Parameter summary: what the command's page shows.
  static func reportFlag(_ summary: String) -> Flag {
    Flag(
      "report", value: "FILE", summary,
      detail: "The page is one HTML file without scripts that loads nothing from elsewhere. FILE must not exist.")
  }

  static let configKeyFlag = Flag(
    "ignore-config-key", value: "KEY", "accept an unknown key of adapter_config.json",
    detail: "An unknown key with a value that is neither null, false nor empty stops the merge, because it may change "
      + "the result. This option names a key that does not.", repeats: true, remedy: .ignoreConfigKey)

  static let allowMissingFlag = Flag(
    "allow-missing", "merge although the adapter lacks modules that it targets",
    detail: "PEFT leaves such modules as they are.", remedy: .allowMissing)

  static let allowUntargetedFlag = Flag(
    "allow-untargeted", "merge modules that adapter_config.json does not target",
    detail: "PEFT ignores such modules.", remedy: .allowUntargeted)

  static let allowNonFiniteFlag = Flag(
    "allow-non-finite", "go on where values are infinite or not a number",
    detail:
      "Without it an adapter with such values is refused, and a sum beyond what the weight's dtype holds stops the "
      + "merge with nothing written.", remedy: .allowNonFinite)

  static let allowRepeatedFlag = Flag(
    "allow-repeated", "merge an adapter that the base says it holds already",
    detail: "Merged models carry the digests of their adapters in the metadata of their files.",
    remedy: .allowRepeated)

  static let mergeFlags: [Flag] = outputFlags(allowRepeatedFlag, partFlag, finishFlag)
  static let unmergeFlags: [Flag] = outputFlags()

  static let partFlag = Flag(
    "part", value: "K/N", "do part K of N, counted from 1, for --finish to put together",
    detail:
      "For N programs that see the same files, such as the tasks of a job array. Each writes its share of the tensors into a "
      + "directory beside OUT; a part that was killed is run again.", takes: .part, excludes: "finish")

  static let finishFlag = Flag(
    "finish", "make OUT of its parts",
    detail:
      "Checks that all parts are done and of these inputs and options, writes the other files, and gives OUT its name. The result "
      + "has the bytes of a merge in one go.")

  static func outputFlags(_ more: Flag...) -> [Flag] {
    [
      Flag(
        "dry-run", letter: "n", "show the plan and write nothing",
        detail: "Resolves every tensor, checks shapes, space and places, and prints what would be done."),
      Flag(
        "force", letter: "f", "replace OUT if it exists and is not empty",
        detail: "The old directory is exchanged for the new one in one step, and removed afterwards.",
        remedy: .replaceOutput),
      Flag(
        "max-shard-size", value: "SIZE", "write shards of at most SIZE, such as 5GB",
        detail: "Units are KB, MB, GB (powers of ten) and KiB, MiB, GiB. A tensor is never split.",
        default: "the base's own shards"),
      configKeyFlag,
      allowMissingFlag,
      allowUntargetedFlag,
      allowNonFiniteFlag,
    ] + more + [
      Flag(
        "fsync", "wait until the output is on the disk before it gets its name",
        detail:
          "Without it the output survives a killed process, as files written by cp do; with it also a power cut."),
      threadsFlag(),
      jsonFlag,
    ]
  }

  static let modelOperand = Operand(
    name: "MODEL", summary: "directory of a causal language model, or of an adapter that names its base", isModel: true)

  static let adapterFlag = Flag(
    "adapter", letter: "a", value: "ADAPTER", "adapter to put on it, with :WEIGHT if its change is to be multiplied",
    repeats: true, isModel: true)

  static let chatArgumentDetail =
    "For example enable_thinking=false. VALUE is JSON, or else a text; tools and documents are lists."

  /// How tokens are chosen, and when no more follow.
  static func generationFlags(newTokens: Int) -> [Flag] {
    [
      Flag(
        "max-new-tokens", letter: "n", value: "N", "tokens to make at most", default: "\(newTokens)",
        takes: .integer(1...1 << 30)),
      Flag("ignore-eos", "go on after an end-of-sequence token"),
      Flag("stop", value: "TEXT", "end before this text", repeats: true),
      Flag(
        "temperature", letter: "t", value: "X", "draw tokens; the higher, the less likely ones",
        default: "0, the likeliest", takes: .number(0...100)),
      Flag("top-k", value: "N", "draw from the N likeliest tokens", takes: .integer(1...1 << 30)),
      Flag(
        "top-p", value: "P", "draw from the likeliest tokens that together have probability P", takes: .number(0...1)),
      Flag(
        "min-p", value: "P", "draw from tokens at least P times as likely as the likeliest", takes: .number(0...1)),
      Flag(
        "repetition-penalty", value: "X", "make tokens that have occurred less likely", default: "1",
        takes: .number(0.01...100)),
      Flag("seed", value: "N", "the same seed draws the same tokens", default: "0", takes: .integer(0...Int.max)),
      jsonFlag,
    ]
  }
}
