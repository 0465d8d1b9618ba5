internal import TensorFiles

/// An option that lets a caller go on where an error stopped it, if what the error says is known to be harmless.
///
/// The library's texts name the option of its API; a command names its flag, if it has one.
public enum Remedy: Sendable, Equatable {
  case ignoreConfigKey(String)
  case allowMissing
  case allowUntargeted
  case allowRepeated
  case allowNonFinite
  case replaceOutput
  case allowDownloads
  case giveRanks
  case giveBase
  case giveBaseForPlainLoRA
  case averageSaved

  /// A remedy without the value that it takes.
  public enum Kind: Sendable, CaseIterable {
    case ignoreConfigKey, allowMissing, allowUntargeted, allowRepeated, allowNonFinite, replaceOutput, allowDownloads
    case giveRanks, giveBase, averageSaved
  }

  public var kind: Kind {
    switch self {
    case .ignoreConfigKey: .ignoreConfigKey
    case .allowMissing: .allowMissing
    case .allowUntargeted: .allowUntargeted
    case .allowRepeated: .allowRepeated
    case .allowNonFinite: .allowNonFinite
    case .replaceOutput: .replaceOutput
    case .allowDownloads: .allowDownloads
    case .giveRanks: .giveRanks
    case .giveBase, .giveBaseForPlainLoRA: .giveBase
    case .averageSaved: .averageSaved
    }
  }

  /// The sentence of the library.
  public var text: String {
    switch self {
    case .ignoreConfigKey(let key): "If it does not, put '\(key)' into MergeOptions.ignoredConfigKeys."
    case .allowUntargeted: "MergeOptions.allowUntargeted merges it all the same."
    case .allowMissing: "MergeOptions.allowMissing merges what is there."
    case .allowRepeated: "MergeOptions.allowRepeated merges it once more."
    case .allowNonFinite: "MergeOptions.allowNonFinite goes on."
    case .replaceOutput: "MergeOptions.replaceOutput replaces it."
    case .allowDownloads: "A Hub that is not offline downloads it."
    case .giveRanks: "Give a rule of ranks."
    case .giveBase: "Give the base model."
    case .giveBaseForPlainLoRA: "LoRAConversion makes a plain LoRA of it, given its base model."
    case .averageSaved: "Options.averagesSaved takes their weighted mean, if the weights do not sum to 0."
    }
  }
}

extension AdapterError {
  /// The option that goes past this error; nil if there is none.
  public var remedy: Remedy? {
    switch self {
    case .unknownConfigKey(_, let key, _): .ignoreConfigKey(key)
    case .missingFromAdapter: .allowMissing
    case .moduleNotTargeted: .allowUntargeted
    case .alreadyMerged: .allowRepeated
    case .adapterNotFinite, .factorNotFinite, .file(.resultNotFinite): .allowNonFinite
    case .file(.outputExists): .replaceOutput
    case .notInCache, .incompleteInCache: .allowDownloads
    case .optionNeeded(_, _, _, let option): option
    default: nil
    }
  }

  /// One sentence or two: where, what, found against expected, and the remedy.
  public var description: String { facts + (remedy.map { " \($0.text)" } ?? "") }
}
