internal import CLinux
internal import Glibc

/// A directory that appears whole or not at all.
///
/// Everything is written into a hidden directory beside the target, which takes the target's name in one rename. A killed
/// run leaves the hidden directory, which the next run to the same target removes; a lock tells it from one in use.
public final class OutputDirectory: Sendable {
  /// Where it will appear.
  public let target: String
  /// Where files are to be written until `commit`.
  public let workPath: String
  private let lock: Int32
  private let replaces: Bool

  /// Makes the hidden directory.
  ///
  /// Throws `.outputExists` if the target exists, is not an empty directory, and `replacing` is false;
  /// `.outputNotDirectory` if something else is there; `.outputOverlapsInput` if it is, contains or lies inside one of
  /// `inputs`, links followed; `.system`.
  public init(target: String, replacing: Bool, inputs: [String]) throws(TensorFileError) {
    try Self.check(target: target, replacing: replacing, inputs: inputs)
    let kind = FileSystem.kind(target)
    let parent = FileSystem.parentDirectory(target)
    let prefix = ".\(FileSystem.lastComponent(target)).partial-"
    try FileSystem.makeDirectories(parent)
    Self.removeAbandoned(in: parent, prefix: prefix)
    let workPath = FileSystem.join(parent, "\(prefix)\(getpid())-\(UInt32.random(in: 0...UInt32.max))")
    try FileSystem.makeDirectory(workPath)
    let lock = open(workPath, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard lock >= 0, flock(lock, LOCK_EX | LOCK_NB) == 0 else {
      throw .system(path: workPath, operation: "lock", code: errno)
    }
    self.target = target
    self.workPath = workPath
    self.lock = lock
    replaces = kind != nil
  }

  deinit { close(lock) }

  /// The checks of `init` alone, for a run that writes nothing.
  public static func check(
    target: String, replacing: Bool, inputs: [String]
  ) throws(TensorFileError) {
    let future = FileSystem.canonicalPathOfFuture(target)
    let name = FileSystem.lastComponent(target)
    guard future != "/", !name.isEmpty, name != ".", name != ".." else { throw .outputNotDirectory(path: target) }
    for input in inputs {
      guard let input = FileSystem.canonicalPath(input) else { continue }
      if future == input || future.hasPrefix(input + "/") || input.hasPrefix(future + "/") {
        throw .outputOverlapsInput(output: target, input: input)
      }
    }
    switch FileSystem.kind(target) {
    case nil: break
    case .directory?:
      let names = try FileSystem.names(in: target)
      if !replacing && !names.isEmpty { throw .outputExists(path: target) }
    default: throw .outputNotDirectory(path: target)
    }
  }

  /// The path of a file to be written.
  public func path(_ name: String) -> String { FileSystem.join(workPath, name) }

  /// Gives the directory its name. With `durable`, waits until every file is on the disk first.
  ///
  /// What stood at the target is exchanged for the new directory in one step, then removed. Throws `.system`.
  public func commit(durable: Bool) throws(TensorFileError) {
    if durable {
      for name in try FileSystem.names(in: workPath) {
        let path = FileSystem.join(workPath, name)
        if FileSystem.kind(path) == .file { try File.open(reading: path).synchronize() }
      }
      guard fsync(lock) == 0 else { throw .system(path: workPath, operation: "synchronize", code: errno) }
    }
    if replaces {
      guard linux_exchange(workPath, target) == 0 else {
        throw .system(path: target, operation: "replace", code: errno)
      }
      try FileSystem.remove(workPath)
    } else {
      guard rename(workPath, target) == 0 else {
        throw .system(path: target, operation: "create", code: errno)
      }
    }
    if durable {
      let parent = open(FileSystem.parentDirectory(target), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
      if parent >= 0 {
        _ = fsync(parent)
        close(parent)
      }
    }
  }

  /// Removes what was written. Failures are ignored: there is already an error to report.
  public func discard() { try? FileSystem.remove(workPath) }

  /// Removes hidden directories of earlier runs whose lock nobody holds.
  private static func removeAbandoned(in parent: String, prefix: String) {
    guard let names = try? FileSystem.names(in: parent) else { return }
    for name in names where name.hasPrefix(prefix) {
      let path = FileSystem.join(parent, name)
      let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
      guard descriptor >= 0 else { continue }
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { try? FileSystem.remove(path) }
      close(descriptor)
    }
  }
}
