internal import CLinux
internal import Glibc

/// A directory that appears whole or not at all.
///
/// Everything is written into a hidden directory beside the target, which takes the target's name in one rename. A killed
/// run leaves the hidden directory, which the next run to the same target removes; a lock tells it from one in use.
public final class OutputDirectory: Sendable {
  /// Where it will appear, as given.
  public let target: String
  /// Where files are to be written until `commit`.
  public let workPath: String
  /// The target with links followed: a link that leads to a directory stays, and its directory is replaced.
  private let place: String
  private let lock: Int32
  private let replacing: Bool

  /// Makes the hidden directory.
  ///
  /// - Parameter sources: directories that a new one is as private as.
  /// Throws `.outputExists` if the target exists, is not an empty directory, and `replacing` is false;
  /// `.outputNotDirectory` if something else is there; `.outputIsMountPoint`; `.outputOverlapsInput` if it is, contains or
  /// lies inside one of `inputs`, links followed; `.system`.
  public init(target: String, replacing: Bool, inputs: [String], like sources: [String] = []) throws(TensorFileError) {
    try Self.check(target: target, replacing: replacing, inputs: inputs)
    let place = FileSystem.canonicalPathOfFuture(target)
    let parent = FileSystem.parentDirectory(place)
    let prefix = ".\(FileSystem.lastComponent(place)).partial-"
    try FileSystem.makeDirectories(parent)
    Self.removeAbandoned(in: parent, prefix: prefix)
    let workPath = FileSystem.join(parent, "\(prefix)\(getpid())-\(UInt32.random(in: 0...UInt32.max))")
    try FileSystem.makeDirectory(workPath)
    Self.makePrivate(workPath, place: place, like: sources)
    do throws(TensorFileError) { lock = try Self.lock(workPath) } catch {
      rmdir(workPath)
      throw error
    }
    self.target = target
    self.workPath = workPath
    self.place = place
    self.replacing = replacing
  }

  /// Takes over a directory that others wrote on the target's file system.
  ///
  /// Throws as the other, and `.system` while another program has taken it over.
  package init(staged workPath: String, target: String, replacing: Bool, inputs: [String]) throws(TensorFileError) {
    try Self.check(target: target, replacing: replacing, inputs: inputs)
    lock = try Self.lock(workPath)
    self.target = target
    self.workPath = workPath
    place = FileSystem.canonicalPathOfFuture(target)
    self.replacing = replacing
  }

  private static func lock(_ path: String) throws(TensorFileError) -> Int32 {
    let lock = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    guard lock >= 0, flock(lock, LOCK_EX | LOCK_NB) == 0 else {
      let code = errno
      if lock >= 0 { close(lock) }
      throw .system(path: path, operation: "lock", code: code)
    }
    return lock
  }

  /// What is written is as private from the start as what it will replace.
  private static func makePrivate(_ path: String, place: String, like sources: [String]) {
    if let mode = FileSystem.mode(place) {
      _ = chmod(path, mode & 0o777 | 0o700)
    } else if let own = FileSystem.mode(path) {
      let modes = sources.compactMap { FileSystem.mode($0) }
      if !modes.isEmpty { _ = chmod(path, modes.reduce(own) { $0 & ($1 | 0o7700) }) }
    }
  }

  /// A hidden name beside a target's, the same for every program that knows the target.
  package static func hiddenPath(beside target: String, suffix: String) -> String {
    let place = FileSystem.canonicalPathOfFuture(target)
    return FileSystem.join(FileSystem.parentDirectory(place), ".\(FileSystem.lastComponent(place)).\(suffix)")
  }

  /// Makes a directory, if it is not there, and those above it; as private as what will be at `target`. Throws `.system`.
  package static func makeHidden(_ path: String, for target: String, like sources: [String]) throws(TensorFileError) {
    guard FileSystem.kind(path) == nil else { return }
    try FileSystem.makeDirectories(path)
    makePrivate(path, place: FileSystem.canonicalPathOfFuture(target), like: sources)
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
      if future == input || FileSystem.isPath(future, inside: input) || FileSystem.isPath(input, inside: future) {
        throw .outputOverlapsInput(output: target, input: input)
      }
    }
    switch FileSystem.kind(target) {
    // A link that leads nowhere has its name all the same.
    case nil: guard !FileSystem.exists(target) else { throw .outputNotDirectory(path: target) }
    case .directory?:
      let isEmpty = try FileSystem.entries(in: target).isEmpty
      guard replacing || isEmpty else { throw .outputExists(path: target) }
      guard device(future) == device(FileSystem.parentDirectory(future)) else {
        throw .outputIsMountPoint(path: target)
      }
    default: throw .outputNotDirectory(path: target)
    }
    var existing = FileSystem.parentDirectory(future)
    while !FileSystem.exists(existing) { existing = FileSystem.parentDirectory(existing) }
    guard access(existing, W_OK | X_OK) == 0 else {
      throw .system(path: existing, operation: "write into", code: errno)
    }
  }

  private static func device(_ path: String) -> dev_t? {
    var status = stat()
    return stat(path, &status) == 0 ? status.st_dev : nil
  }

  /// The path of a file to be written.
  public func path(_ name: String) -> String { FileSystem.join(workPath, name) }

  /// Gives the directory its name. With `durable`, waits until every file is on the disk first.
  ///
  /// What is written never takes the place of something that `init` would have refused, even if that appeared since: an
  /// empty directory is replaced by a rename, which fails when the directory is empty no more. Only with `replacing` is a
  /// directory that holds something exchanged for the new one, in one step, and then removed.
  /// Throws `.outputExists`, `.outputNotDirectory`, `.system`.
  public func commit(durable: Bool) throws(TensorFileError) {
    if durable {
      try Self.synchronize(workPath)
      guard fsync(lock) == 0 else { throw .system(path: workPath, operation: "synchronize", code: errno) }
    }
    if let mode = FileSystem.mode(place) { _ = fchmod(lock, mode) }
    if rename(workPath, place) != 0 {
      switch errno {
      case ENOTEMPTY, EEXIST:
        guard replacing else { throw .outputExists(path: target) }
        try exchange()
      case ENOTDIR: throw .outputNotDirectory(path: target)
      default: throw .system(path: target, operation: "create", code: errno)
      }
    }
    if durable {
      let parent = open(FileSystem.parentDirectory(place), O_RDONLY | O_DIRECTORY | O_CLOEXEC)
      if parent >= 0 {
        _ = fsync(parent)
        close(parent)
      }
    }
  }

  private func exchange() throws(TensorFileError) {
    guard linux_exchange(workPath, place) == 0 else {
      throw .system(path: target, operation: "replace", code: errno)
    }
    var status = stat()
    guard lstat(workPath, &status) == 0, status.st_mode & S_IFMT == S_IFDIR else {
      // It was a directory a moment ago.
      _ = linux_exchange(workPath, place)
      throw .outputNotDirectory(path: target)
    }
    try FileSystem.remove(workPath)
  }

  private static func synchronize(_ directory: String) throws(TensorFileError) {
    for name in try FileSystem.names(in: directory) {
      let path = FileSystem.join(directory, name)
      if FileSystem.kind(path) == .file {
        try OpenFile.open(reading: path).synchronize()
      } else {
        try synchronize(path)
        let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC)
        guard descriptor >= 0 else { continue }
        defer { close(descriptor) }
        guard fsync(descriptor) == 0 else { throw .system(path: path, operation: "synchronize", code: errno) }
      }
    }
  }

  /// Removes what was written. Failures are ignored: there is already an error to report.
  public func discard() { try? FileSystem.remove(workPath) }

  /// Removes hidden directories of earlier runs whose lock nobody holds.
  private static func removeAbandoned(in parent: String, prefix: String) {
    guard let entries = try? FileSystem.entries(in: parent) else { return }
    for entry in entries where entry.starts(with: prefix.utf8) {
      let path = FileSystem.join(parent, String(decoding: entry, as: UTF8.self))
      let descriptor = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
      guard descriptor >= 0 else { continue }
      if flock(descriptor, LOCK_EX | LOCK_NB) == 0 { try? FileSystem.remove(path) }
      close(descriptor)
    }
  }
}
