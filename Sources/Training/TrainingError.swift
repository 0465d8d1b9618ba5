public import LanguageModels
public import TensorFiles

/// Why a run does not begin, or stopped before its end.
public enum TrainingError: Error, Equatable, Sendable {
  /// A loss or gradient that is infinite or no number.
  case notFinite(step: Int, what: String, checkpoint: String?)
  case unknownArgument(name: String, nearest: [String])
  case argumentValue(name: String, found: String, expected: String)
  /// A record that cannot be used; line 0 for a whole file.
  case record(path: String, line: Int, reason: String)
  /// A run that was told to stop, with the checkpoint that it wrote.
  case interrupted(step: Int, steps: Int, checkpoint: String)
  /// There is no checkpoint to go on from.
  case noCheckpoint(path: String)
  /// A checkpoint that lacks what a run needs to go on, or holds something else than it should.
  case badCheckpoint(path: String, reason: String)
  /// A checkpoint of another run.
  case otherRun(path: String, what: String, found: String, expected: String)
  /// A rank that was given something else than rank 0.
  case otherRank(rank: Int, what: String)
  /// Settings that do not go together.
  case contradiction(String)
  case file(TensorFileError)
  case model(ModelError)
}
