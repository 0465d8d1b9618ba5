internal import LanguageModels
internal import TensorFiles

extension TrainingError: CustomStringConvertible {
  public var description: String {
    switch self {
    case .notFinite(let step, let what, let checkpoint):
      "step \(step): \(what) is not finite. Nothing of this step was kept. "
        + (checkpoint.map { "The last good checkpoint is \($0). " } ?? "There is no checkpoint. ")
        + "A smaller learning_rate or max_grad_norm may help."
    case .unknownArgument(let name, let nearest):
      "unknown training argument '\(name)'."
        + (nearest.isEmpty ? "" : " Did you mean \(nearest.map { "'\($0)'" }.joined(separator: " or "))?")
        + " 'peft-tool train --help' lists them."
    case .argumentValue(let name, let found, let expected):
      "training argument '\(name)': expected \(expected), found \(found)."
    case .record(let path, 0, let reason): "\(path): \(reason)."
    case .record(let path, let line, let reason): "\(path): line \(line): \(reason)."
    case .interrupted(let step, let steps, let checkpoint):
      "interrupted after step \(step) of \(steps); wrote \(checkpoint). "
        + "The same command with --resume-from-checkpoint last goes on from there."
    case .noCheckpoint(let path):
      "\(path): there is no checkpoint to go on from. Leave out --resume-from-checkpoint to begin."
    case .badCheckpoint(let path, let reason): "\(path): a run cannot go on from it: \(reason)."
    case .otherRun(let path, let what, let found, let expected):
      "\(path): it belongs to another run: \(what) is \(found) now, and was \(expected). "
        + "Give what it was, or begin a new run with the checkpoint as CONFIG."
    case .otherRank(let rank, let what):
      "rank \(rank): \(what) is not what rank 0 has. All ranks need the same base, records, configuration and options, "
        + "and processors of one kind."
    case .contradiction(let text): text
    case .file(let error): error.description
    case .model(let error): error.description
    }
  }
}
