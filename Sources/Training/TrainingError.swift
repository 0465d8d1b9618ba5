public import LanguageModels
public import TensorFiles

/// Why a run does not begin, or stopped before its end.
public enum TrainingError: Error, Equatable, Sendable {
  /// A loss or gradient that is infinite or no number.
  case notFinite(step: Int, what: String)
  case unknownArgument(name: String, known: [String])
  case argumentValue(name: String, found: String, expected: String)
  /// A record that cannot be used; line 0 for a whole file.
  case record(path: String, line: Int, reason: String)
  case file(TensorFileError)
  case model(ModelError)
}
