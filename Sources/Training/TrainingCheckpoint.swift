internal import PEFT
internal import TensorFiles

/// The directories `checkpoint-N` of a run.
///
/// Source: transformers/trainer_utils.py `sort_checkpoints`, `rotate_checkpoints`, `get_last_checkpoint`.
struct TrainingCheckpoint: Equatable {
  static let stateName = "trainer_state.json"
  /// What transformers keeps in optimizer.pt, scheduler.pt and rng_state.pth.
  static let runName = "training_state.json"
  static let tensorsName = "training_state.safetensors"
  private static let prefix = "checkpoint-"
  private static let removedSuffix = ".removed"

  let step: Int
  let path: String

  init(step: Int, of output: String) {
    self.step = step
    path = FileSystem.join(output, "\(Self.prefix)\(step)")
  }

  /// Those in a directory, by their steps.
  static func all(in output: String) -> [TrainingCheckpoint] {
    let names = (try? FileSystem.names(in: output)) ?? []
    return names.compactMap { name -> TrainingCheckpoint? in
      guard name.hasPrefix(prefix), let step = Int(name.dropFirst(prefix.count)), step >= 0 else { return nil }
      let checkpoint = TrainingCheckpoint(step: step, of: output)
      return FileSystem.kind(checkpoint.path) == .directory ? checkpoint : nil
    }.sorted { $0.step < $1.step }
  }

  /// Removes the oldest until `limit` are left; never the newest, nor `best`. Nil or 0 for no limit.
  static func rotate(in output: String, limit: Int?, best: String?) throws(TensorFileError) {
    guard let limit, limit > 0 else { return }
    let all = all(in: output)
    let kept = all.filter { $0 == all.last || $0.path == best }
    var count = all.count
    for checkpoint in all where count > max(limit, kept.count) && !kept.contains(checkpoint) {
      try checkpoint.remove()
      count -= 1
    }
  }

  /// Takes the directory's name away before anything in it goes: what is called a checkpoint is whole.
  func remove() throws(TensorFileError) {
    let parent = FileSystem.parentDirectory(path)
    for name in try FileSystem.names(in: parent)
    where name.hasPrefix(".\(Self.prefix)") && name.hasSuffix(Self.removedSuffix) {
      try FileSystem.remove(FileSystem.join(parent, name))
    }
    let hidden = FileSystem.join(parent, ".\(Self.prefix)\(step)\(Self.removedSuffix)")
    try FileSystem.move(path, to: hidden)
    try FileSystem.remove(hidden)
  }
}
