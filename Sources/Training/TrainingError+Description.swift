internal import LanguageModels
internal import TensorFiles

extension TrainingError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .notFinite(let step, let what):
      "step \(step): \(what) is not finite. Nothing of this step was kept. A smaller learning rate or clipping may help."
    case .unknownArgument(let name, let known):
      "unknown training argument '\(name)'. Known: \(known.joined(separator: ", "))."
    case .argumentValue(let name, let found, let expected):
      "training argument '\(name)': expected \(expected), found \(found)."
    case .record(let path, 0, let reason): "\(path): \(reason)."
    case .record(let path, let line, let reason): "\(path): line \(line): \(reason)."
    case .file(let error): error.description
    case .model(let error): error.description
    }
  }
}
