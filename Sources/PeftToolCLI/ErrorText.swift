internal import LanguageModels
internal import PEFT
internal import TensorFiles
internal import Training

/// What a command says of an error: its facts, and the flag that goes past it if the command takes one.
enum ErrorText {
  /// - Parameter command: the one that is running; nil before it is known.
  static func text(_ error: any Error, of command: Command?) -> String {
    switch error {
    case let error as AdapterError: text(error, of: command)
    case let error as TensorFileError: text(AdapterError.file(error), of: command)
    case let error as ModelError:
      switch error {
      case .adapter(let inner): text(inner, of: command)
      case .file(let inner): text(AdapterError.file(inner), of: command)
      default: error.description
      }
    case RecipeError.adapter(let inner): text(inner, of: command)
    case TrainingError.file(let inner): text(AdapterError.file(inner), of: command)
    case TrainingError.model(let inner): text(inner, of: command)
    default: "\(error)"
    }
  }

  private static func text(_ error: AdapterError, of command: Command?) -> String {
    guard let remedy = error.remedy, let flag = command?.allFlags.first(where: { $0.remedy == remedy.kind }) else {
      // Another command cures it.
      return error.facts
        + (error.remedy == .giveBaseForPlainLoRA ? " 'peft-tool to-lora' with its base makes a plain LoRA of it." : "")
    }
    return "\(error.facts) \(sentence(remedy, "--\(flag.name)"))"
  }

  private static func sentence(_ remedy: Remedy, _ flag: String) -> String {
    switch remedy {
    case .ignoreConfigKey(let key): "If it does not, pass \(flag) \(key)."
    case .allowMissing: "Pass \(flag) to merge what is there."
    case .allowUntargeted: "Pass \(flag) to merge it all the same."
    case .allowRepeated: "Pass \(flag) to merge it once more."
    case .allowNonFinite: "Pass \(flag) to go on."
    case .replaceOutput: "Pass \(flag) to replace it."
    case .allowDownloads: "It is downloaded without \(flag)."
    case .giveRanks: "Give \(flag) or --energy."
    case .giveBase, .giveBaseForPlainLoRA: "Give the base with \(flag)."
    case .averageSaved: "\(flag) takes their weighted mean, if the weights do not sum to 0."
    }
  }
}
